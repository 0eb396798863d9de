/** What to do about a GPU that is not there, by the kind of system. */

/** What decides the advice. */
export interface SystemFacts {
  /** As `Deno.build.os` says. */
  readonly os: string;
  /** An NVIDIA card is in the machine, by its device file or its driver's. */
  readonly nvidia: boolean;
  /** Windows' Linux. */
  readonly wsl: boolean;
  readonly container: boolean;
  /** The kernel has a graphics device (`/dev/dri`). */
  readonly dri: boolean;
  /** The distribution's package manager, where it is known. */
  readonly packages?: "apt" | "dnf" | "pacman" | "apk";
}

/** A state in words, and the commands or steps that mend it. */
export interface Advice {
  readonly state: string;
  readonly steps: readonly string[];
}

const MESA: Record<NonNullable<SystemFacts["packages"]>, string> = {
  apt: "sudo apt-get install mesa-vulkan-drivers",
  dnf: "sudo dnf install mesa-vulkan-drivers",
  pacman: "sudo pacman -S vulkan-swrast",
  apk: "apk add mesa-vulkan-swrast",
};

/** What to do where no adapter was found, or a software one alone (`software`). */
export function adapterAdvice(system: SystemFacts, software: boolean): Advice {
  const { os, nvidia, wsl, container, dri, packages } = system;
  const mesa = packages ? MESA[packages] : "install your distribution's Mesa Vulkan drivers";
  if (os === "darwin") {
    return {
      state: "macOS has an adapter (Metal) on every Mac since 2012; a virtual machine may have none",
      steps: ["update macOS", "run on the Mac itself rather than in a virtual machine", "deno upgrade"],
    };
  }
  if (os === "windows") {
    return {
      state: "Windows has an adapter (Direct3D 12) where the graphics driver is current; a remote desktop may hide it",
      steps: [
        "update the graphics driver from its maker's page",
        "run in a session of the machine itself",
        "deno upgrade",
      ],
    };
  }
  if (wsl) {
    return {
      state: "WSL passes Direct3D through, of which Vulkan needs Mesa's `dzn` driver",
      steps: ["wsl --update (in Windows)", mesa, "export MESA_LOADER_DRIVER_OVERRIDE=d3d12"],
    };
  }
  if (container) {
    const steps = [
      "docker run --gpus all -e NVIDIA_DRIVER_CAPABILITIES=all ... (with the NVIDIA Container Toolkit)",
      "docker run --device /dev/dri ... (AMD and Intel)",
      ...(software ? [] : [`${mesa} (gives a software adapter)`]),
    ];
    if (nvidia) {
      steps.splice(1, 1);
      return { state: "the container sees an NVIDIA card, and not its Vulkan driver", steps };
    }
    return { state: "the container sees no graphics card: it must be passed in", steps };
  }
  if (nvidia) {
    return {
      state: "there is an NVIDIA card, and no Vulkan driver that finds it",
      steps: [
        packages === "apt"
          ? "sudo apt-get install nvidia-driver libnvidia-gl"
          : "install NVIDIA's driver with its Vulkan part",
        "nvidia-smi (must list the card)",
        "ls /usr/share/vulkan/icd.d /etc/vulkan/icd.d (must list nvidia_icd.json)",
      ],
    };
  }
  if (dri) {
    return {
      state: "there is a graphics device, and no Vulkan driver that finds it",
      steps: [mesa, "sudo usermod -aG render,video $USER (then log in anew)"],
    };
  }
  return {
    state: "the machine shows no graphics card",
    steps: software ? ["run on a machine with a GPU for speed"] : [`${mesa} (gives a software adapter)`],
  };
}

/** Looks at the system. */
export async function systemFacts(): Promise<SystemFacts> {
  const there = async (path: string) => await Deno.lstat(path).then(() => true, () => false);
  const text = async (path: string) => await Deno.readTextFile(path).catch(() => "");
  const [version, groups, release] = await Promise.all(
    ["/proc/version", "/proc/1/cgroup", "/etc/os-release"].map(text),
  );
  const managers = { apt: /debian|ubuntu/, dnf: /fedora|rhel|centos/, pacman: /arch/, apk: /alpine/ } as const;
  const ids = [...release.matchAll(/^ID(?:_LIKE)?=(.*)$/gm)].map(([, id]) => id).join(" ");
  const packages = (Object.keys(managers) as (keyof typeof managers)[]).find((name) => managers[name].test(ids));
  return {
    os: Deno.build.os,
    nvidia: await there("/dev/nvidia0") || await there("/proc/driver/nvidia") || await there("/dev/nvidiactl"),
    wsl: /microsoft/i.test(version),
    container: await there("/.dockerenv") || await there("/run/.containerenv") ||
      /docker|kubepods|containerd/.test(groups) ||
      Deno.env.get("container") !== undefined,
    dri: await there("/dev/dri"),
    packages,
  };
}
