import { assertEquals } from "@std/assert";

const VULKAN = new URL("../../cli/vulkan.ts", import.meta.url).href;

/** The way to the GPU that a process of these variables takes, home being a folder with or without a driver's manifest. */
async function chosen(env: Record<string, string>, permissions = ["-A"]): Promise<string> {
  const code = `import { preferVulkan } from "${VULKAN}"; preferVulkan();
const { state } = Deno.permissions.querySync({ name: "env", variable: "DENO_WEBGPU_BACKEND" });
console.log(state === "granted" ? Deno.env.get("DENO_WEBGPU_BACKEND") : state);`;
  const { code: status, stdout, stderr } = await new Deno.Command(Deno.execPath(), {
    args: [
      "run",
      "--no-config",
      "--no-prompt",
      ...permissions,
      `data:application/typescript,${encodeURIComponent(code)}`,
    ],
    env: { NO_COLOR: "1", ...env },
    clearEnv: true,
  }).output();
  assertEquals([new TextDecoder().decode(stderr), status], ["", 0]);
  return new TextDecoder().decode(stdout).trim();
}

Deno.test({
  name: "OpenGL is left out where there is a Vulkan driver, unless the user chose",
  ignore: Deno.build.os !== "linux",
  async fn() {
    const home = await Deno.makeTempDir();
    try {
      const manifests = `${home}/.config/vulkan/icd.d`;
      await Deno.mkdir(manifests, { recursive: true });
      await Deno.writeTextFile(`${manifests}/some.json`, "{}");
      assertEquals(await chosen({ HOME: home }), "vulkan");
      assertEquals(await chosen({ XDG_CONFIG_HOME: `${home}/.config` }), "vulkan");
      assertEquals(await chosen({ VK_DRIVER_FILES: "/some.json" }), "vulkan");
      assertEquals(await chosen({ HOME: home, DENO_WEBGPU_BACKEND: "gl" }), "gl");
      assertEquals(await chosen({ HOME: home }, ["--allow-import", "--allow-read"]), "prompt");
    } finally {
      await Deno.remove(home, { recursive: true });
    }
  },
});
