/** Which of the two ways to a GPU Deno takes on Linux. */

/**
 * Leaves OpenGL out where there is a Vulkan driver, as the launcher does: looking for it too takes as long again, and its
 * library (libEGL) frees what is its own while threads end, which corrupted memory at the end of one process in twenty or
 * so. What the user chose stays. To be called before WebGPU is used: Deno asks once.
 */
export function preferVulkan(): void {
  if (Deno.build.os !== "linux") return;
  try {
    if (!Deno.env.get("DENO_WEBGPU_BACKEND") && hasVulkanDriver()) Deno.env.set("DENO_WEBGPU_BACKEND", "vulkan");
  } catch (error) {
    // Without permission for variables Deno looks for both.
    if (!(error instanceof Deno.errors.NotCapable)) throw error;
  }
}

/** Whether a driver's manifest stands where the Vulkan loader looks, or is named. */
function hasVulkanDriver(): boolean {
  const value = (name: string) => Deno.env.get(name) ?? "";
  if (value("VK_DRIVER_FILES") || value("VK_ICD_FILENAMES") || value("VK_ADD_DRIVER_FILES")) return true;
  const home = value("HOME");
  const folders = [
    ...["/etc", "/usr/share", "/usr/local/share", "/usr/local/etc", "/etc/xdg"],
    value("XDG_CONFIG_HOME") || `${home}/.config`,
    value("XDG_DATA_HOME") || `${home}/.local/share`,
  ];
  return folders.some((folder) => {
    try {
      return Deno.readDirSync(`${folder}/vulkan/icd.d`).some(({ name }) => name.endsWith(".json"));
    } catch {
      return false;
    }
  });
}
