/** `./resnext` as a process, on a machine made of fakes: a PATH that holds nothing else, and a root of its own. */

import { assertEquals, assertMatch, assertStringIncludes } from "@std/assert";
import { fromFileUrl, join } from "@std/path";

const launcher = fromFileUrl(new URL("../../resnext", import.meta.url));

/** What the launcher may take from the machine that runs the test. */
const REAL = "cat chmod dirname env grep head ln mkdir mktemp mv printf readlink rm sed sh true".split(" ");

const deno = (version: string) =>
  `if [ "$1" = --version ]; then echo "deno ${version} (stable)"; exit 0; fi
echo "deno $*" >>"$FAKE_LOG"
echo "cwd $(pwd), home $XDG_RUNTIME_DIR, update check off: $DENO_NO_UPDATE_CHECK, driver $VK_DRIVER_FILES, backend $DENO_WEBGPU_BACKEND"
exit "\${FAKE_EXIT:-0}"`;

/** Writes the fake Deno to the file that the shell calls $to. */
const writeDeno = `{ echo '#!/bin/sh'; cat <<'END'
${deno("2.9.6")}
END
} >"$to" && chmod +x "$to"`;

const FAKES = {
  npm: `echo "npm $*" >>"$FAKE_LOG"
[ -z "$FAKE_OFFLINE" ] || exit 1
while [ "$1" != --prefix ]; do shift; done
mkdir -p "$2/node_modules/.bin"; to=$2/node_modules/.bin/deno
${writeDeno}`,
  curl: `echo "curl $*" >>"$FAKE_LOG"
[ -z "$FAKE_OFFLINE" ] || exit 1
while [ "$1" != -o ]; do shift; done
cat >"$2" <<'SCRIPT'
echo "install.sh $*" >>"$FAKE_LOG"
mkdir -p "$DENO_INSTALL/bin"; to=$DENO_INSTALL/bin/deno
${writeDeno}
SCRIPT`,
  "apt-get": `echo "apt-get $*" >>"$FAKE_LOG"
[ -z "$FAKE_OFFLINE" ] || exit 100
case "$*" in *install*) mkdir -p "$RESNEXT_SYSROOT/usr/share/vulkan/icd.d"; echo {} >"$RESNEXT_SYSROOT/usr/share/vulkan/icd.d/lvp.json" ;; esac`,
  sudo: `[ -n "$FAKE_SUDO" ] || exit 1
shift; [ "$*" = true ] || echo "sudo $*" >>"$FAKE_LOG"
exec "$@"`,
  id: `echo "\${FAKE_UID:-0}"`,
  uname: `echo "\${FAKE_SYSTEM:-Linux}"`,
} as const;

/** What every command may know. */
const VARIABLES =
  "--allow-sys=hostname,systemMemoryInfo --ignore-env --allow-env=CI,COLORTERM,FORCE_COLOR,HOME,LOCALAPPDATA,NO_COLOR," +
  "RESNEXT_DATA,TERM,TERM_PROGRAM,XDG_CACHE_HOME,XDG_RUNTIME_DIR";

interface Machine {
  /** Fakes on the PATH. */
  readonly tools: readonly (keyof typeof FAKES)[];
  /** Version of the Deno on the PATH, if there is one. */
  readonly deno?: string;
  /** There is a Vulkan driver. Default true. */
  readonly driver?: boolean;
  /** Deno has fetched the libraries before. Default true. */
  readonly libraries?: boolean;
}

interface Run {
  readonly code: number;
  readonly out: string;
  readonly err: string;
  /** What the fakes were called with, since the last run. */
  readonly calls: string[];
}

/** Makes the machine and gives a function that runs the launcher on it. */
async function onMachine(
  machine: Machine,
  body: (
    run: (args: string[], env?: Record<string, string>) => Promise<Run>,
    paths: { project: string; root: string },
  ) => Promise<void>,
): Promise<void> {
  // The real path, as `pwd` shows it: on macOS the folder for temporary files is a link.
  const root = await Deno.realPath(await Deno.makeTempDir({ prefix: "resnext launcher " }));
  try {
    const bin = join(root, "bin"), project = join(root, "project"), elsewhere = join(root, "elsewhere");
    for (const folder of [bin, project, elsewhere, join(root, "sys/usr/share/vulkan/icd.d")]) {
      await Deno.mkdir(folder, { recursive: true });
    }
    await Deno.copyFile(launcher, join(project, "resnext"));
    if (machine.libraries ?? true) {
      await Deno.mkdir(join(project, ".deno"));
      await Deno.writeTextFile(join(project, ".deno/libraries"), "");
    }
    if (machine.driver ?? true) await Deno.writeTextFile(join(root, "sys/usr/share/vulkan/icd.d/a.json"), "{}");
    for (const tool of REAL) await Deno.symlink(await which(tool), join(bin, tool));
    const fakes = Object.fromEntries(machine.tools.map((tool) => [tool, FAKES[tool]]));
    for (const [name, text] of Object.entries({ id: FAKES.id, uname: FAKES.uname, ...fakes })) {
      await Deno.writeTextFile(join(bin, name), `#!/bin/sh\n${text}\n`, { mode: 0o755 });
    }
    if (machine.deno) {
      await Deno.writeTextFile(join(bin, "deno"), `#!/bin/sh\n${deno(machine.deno)}\n`, { mode: 0o755 });
    }
    const log = join(root, "log");
    await body(async (args, env = {}) => {
      await Deno.writeTextFile(log, "");
      const output = await new Deno.Command(join(project, "resnext"), {
        args,
        cwd: elsewhere,
        clearEnv: true,
        env: { PATH: bin, HOME: root, FAKE_LOG: log, RESNEXT_SYSROOT: join(root, "sys"), ...env },
      }).output();
      return {
        code: output.code,
        out: new TextDecoder().decode(output.stdout),
        err: new TextDecoder().decode(output.stderr),
        calls: (await Deno.readTextFile(log)).split("\n").filter(Boolean),
      };
    }, { project, root });
  } finally {
    await Deno.remove(root, { recursive: true });
  }
}

async function which(tool: string): Promise<string> {
  for (const folder of (Deno.env.get("PATH") ?? "").split(":")) {
    const path = join(folder, tool);
    if (await Deno.stat(path).then((info) => info.isFile, () => false)) return path;
  }
  throw new Error(`No ${tool} on the PATH`);
}

function launcherTest(name: string, fn: () => Promise<void>): void {
  // A POSIX shell script; on Windows the README has people call Deno itself.
  Deno.test({ name, ignore: Deno.build.os === "windows", fn });
}

launcherTest("a new enough Deno on the PATH is used, from any folder, with the arguments as they are", async () => {
  for (const version of ["2.9.0", "2.10.3", "3.0.1"]) {
    await onMachine({ deno: version, tools: ["npm", "apt-get"] }, async (run, { project, root }) => {
      const { code, out, err, calls } = await run(["train", "--out", "a b"]);
      assertEquals([code, err], [0, ""]);
      const permissions = `--no-prompt --allow-read --allow-write=a b,${root}/.cache/resnext ${VARIABLES}`;
      assertEquals(calls, [
        `deno run --quiet ${permissions} --config ${project}/deno.json ${project}/main.ts train --out a b`,
      ]);
      assertEquals(out, `cwd ${root}/elsewhere, home /tmp, update check off: 1, driver , backend vulkan\n`);
    });
  }
});

launcherTest("each command may do what it needs, and no more", async () => {
  await onMachine({ deno: "2.9.6", tools: [] }, async (run, { root }) => {
    await Deno.writeTextFile(join(root, "elsewhere", "c.json"), '{"epochs": 3, "out" : "runs/by config"}');
    await Deno.writeTextFile(join(root, "elsewhere", "t.json"), '{ "out": "o", "tensorboard": true, "epochs": 3 }');
    await Deno.mkdir(join(root, "elsewhere", "a run"));
    const described = (dataset: string) => `{"__metadata__":{"run":"{\\"dataset\\":\\"${dataset}\\"}"}}`;
    await Deno.writeTextFile(join(root, "elsewhere", "own.safetensors"), described("folder:/pictures"));
    await Deno.copyFile(join(root, "elsewhere", "own.safetensors"), join(root, "elsewhere", "renamed.ckpt"));
    await Deno.writeTextFile(join(root, "elsewhere", "drawn.safetensors"), described("shapes"));
    await Deno.mkdir(join(root, "elsewhere", "run"));
    await Deno.copyFile(join(root, "elsewhere", "own.safetensors"), join(root, "elsewhere", "run/last.safetensors"));
    // Names that start as options do.
    await Deno.copyFile(join(root, "elsewhere", "own.safetensors"), join(root, "elsewhere", "-own.safetensors"));
    await Deno.writeTextFile(join(root, "elsewhere", "-c.json"), '{"out": "-o"}');
    await Deno.mkdir(join(root, "elsewhere", "-run"));
    await Deno.symlink("run/last.safetensors", join(root, "elsewhere", "link.safetensors"));
    await Deno.writeTextFile(join(root, "elsewhere", "p.json"), '{"out": "o",\n "dataset": "folder:a \\"b\\\\c"}');
    const cache = `${root}/.cache/resnext`, least = `--no-prompt --allow-read ${VARIABLES}`;
    const decoding = (writes: string) =>
      `--no-prompt --allow-read --allow-write=${writes} --allow-ffi --allow-sys ${
        VARIABLES.replace("--allow-sys=hostname,systemMemoryInfo ", "")
      }`;
    const cases: [string[], string][] = [
      [["eval", "x"], least],
      [["train"], `--no-prompt --allow-read --allow-write=runs,${cache} ${VARIABLES}`],
      [["train", "--resume", "a/b.safetensors"], `--no-prompt --allow-read --allow-write=a,${cache} ${VARIABLES}`],
      [["train", "--out=x,y/z"], `--no-prompt --allow-read --allow-write=.,${cache} ${VARIABLES}`],
      [["train", "--config", "c.json"], `--no-prompt --allow-read --allow-write=runs/by config,${cache} ${VARIABLES}`],
      [
        ["checkpoint", "export", "x", "--to", "d/e.safetensors"],
        `--no-prompt --allow-read --allow-write=d ${VARIABLES}`,
      ],
      [
        ["download", "cifar10", "--url", "http://me@host:81/x?y"],
        `--no-prompt --allow-read --allow-write=${cache} --allow-net=host:81 ${VARIABLES}`,
      ],
      [["train", "--config=t.json"], decoding(`o,${cache},${cache}`)],
      [["report", "name"], decoding(`runs,${cache}`)],
      [["report", "--no-judge", "a run", "--dir=d"], decoding(`d,a run,${cache}`)],
      [["report", "a run", "--out", "x/y.html"], decoding(`x,${cache}`)],
      [["eval", "drawn.safetensors"], least],
      [["eval", "x", "--predictions", "d/e.csv"], `--no-prompt --allow-read --allow-write=d ${VARIABLES}`],
      [["eval", "own.safetensors", "--predictions=e.csv"], decoding(`.,${cache}`)],
      [["eval", "own.safetensors"], decoding(cache)],
      [["eval", "renamed.ckpt"], decoding(cache)],
      [
        ["checkpoint", "export", "x", "--to", "link.safetensors"],
        `--no-prompt --allow-read --allow-write=${root}/elsewhere/run ${VARIABLES}`,
      ],
      [["train", "--resume=own.safetensors"], decoding(`.,${cache},${cache}`)],
      [["train", "--resume=link.safetensors"], decoding(`${root}/elsewhere/run,${cache},${cache}`)],
      [["eval", "--", "-own.safetensors"], decoding(cache)],
      [["train", "--config=-c.json"], `--no-prompt --allow-read --allow-write=-o,${cache} ${VARIABLES}`],
      [["report", "--", "-run"], decoding(`runs,-run,${cache}`)],
      [["train", "--out", "run", "--resume", "auto"], decoding(`run,${cache},${cache}`)],
      [
        ["train", "--out", "a run", "--resume=auto"],
        `--no-prompt --allow-read --allow-write=a run,${cache} ${VARIABLES}`,
      ],
      [["train", "--config", "p.json"], decoding(`o,${cache},${cache}`)],
      [["train", "--config=p.json"], decoding(`o,${cache},${cache}`)],
      // What is no address is for the program to refuse; Deno would show a stack.
      ...["http://a b/c", "http://host:99999/c", "http://host:x/c"].map((url): [string[], string] => [
        ["download", "cifar10", "--url", url],
        `--no-prompt --allow-read --allow-write=${cache} ${VARIABLES}`,
      ]),
      [["serve", "x", "--port=99999"], decoding(cache)],
      [["serve", "x", "--host", "a b"], decoding(cache)],
      ...[
        [[], "127.0.0.1:8000"],
        [["--port", "0", "--host=::1"], "[::1]:0"],
        [["--port", "0", "--host=[::1]"], "[::1]:0"],
        [["--host", "0.0.0.0", "--port=81"], "0.0.0.0:81"],
      ].map(([options, address]): [string[], string] => [
        ["serve", "x", ...options],
        `--no-prompt --allow-read --allow-write=${cache} --allow-net=${address} --allow-ffi ` +
        VARIABLES.replace("--allow-sys=hostname,systemMemoryInfo", "--allow-sys"),
      ]),
      [["summary", "resnext50"], least],
      [
        ["doctor"],
        `--no-prompt --allow-read --allow-write=${cache},runs ${
          VARIABLES.replace("systemMemoryInfo", "systemMemoryInfo,statfs")
        }`,
      ],
      [["bench"], "-A"],
      [["--help"], least],
    ];
    for (const [args, permissions] of cases) {
      const { calls, err } = await run(args);
      assertEquals(err, "", args.join(" "));
      assertEquals(
        calls[0].replace(/ --config .*?deno\.json .*/, ""),
        `deno run --quiet ${permissions}`,
        args.join(" "),
      );
    }
  });
});

launcherTest("`test` and `task` call the tasks of deno.json", async () => {
  await onMachine({ deno: "2.9.6", tools: [] }, async (run, { project }) => {
    const task = `deno task --quiet --config ${project}/deno.json`;
    assertEquals((await run(["test", "--filter", "conv"])).calls, [`${task} test --filter conv`]);
    assertEquals((await run(["task", "parity", "DIR"])).calls, [`${task} parity DIR`]);
  });
});

launcherTest("exit codes pass through", async () => {
  await onMachine({ deno: "2.9.6", tools: [] }, async (run) => {
    assertEquals((await run(["eval"], { FAKE_EXIT: "2" })).code, 2);
    assertEquals((await run(["test"], { FAKE_EXIT: "7" })).code, 7);
  });
});

launcherTest("without Deno, or with an old one, npm installs the pinned one, once", async () => {
  for (const old of [undefined, "2.8.3", "1.46.0"]) {
    await onMachine({ deno: old, tools: ["npm", "curl"] }, async (run, { project }) => {
      const first = await run(["train"]);
      assertEquals(first.code, 0);
      assertMatch(first.err, /^resnext: installing Deno 2\.9\.6 into .*\/\.deno\/2\.9\.6 \(npm/);
      assertEquals(first.calls.length, 2);
      assertMatch(first.calls[0], /^npm install --prefix .*\/\.deno\/part\.\w+ .*deno@2\.9\.6$/);
      assertMatch(first.calls[1], /^deno run --quiet --no-prompt .*main\.ts train$/);

      const second = await run(["train"], { FAKE_EXIT: "3" });
      assertEquals([second.code, second.err], [3, ""]);
      assertEquals(second.calls, [first.calls[1]]);
      assertEquals([...Deno.readDirSync(join(project, ".deno"))].map(({ name }) => name).sort(), [
        "2.9.6",
        "libraries",
      ]);
    });
  }
});

launcherTest("without npm Deno's installer does it, once", async () => {
  await onMachine({ tools: ["curl"] }, async (run) => {
    const first = await run(["eval", "x"]);
    assertEquals(first.code, 0);
    assertStringIncludes(first.err, "Deno's installer");
    assertMatch(
      first.calls.join("\n"),
      /^curl .*install\.sh.*\ninstall\.sh v2\.9\.6\ndeno run --quiet --no-prompt .*main\.ts eval x$/,
    );
    assertEquals((await run(["eval", "x"])).calls, first.calls.slice(2));
  });
});

launcherTest(
  "when nothing can install Deno it says so, leaves nothing half-made, and tries again next time",
  async () => {
    await onMachine({ tools: ["npm", "curl"] }, async (run, { project }) => {
      const { code, err, calls } = await run(["train"], { FAKE_OFFLINE: "1" });
      assertEquals(code, 1);
      assertStringIncludes(err, "cannot install Deno 2.9.6: neither npm nor Deno's installer worked; see https://");
      assertEquals(calls.map((call) => call.split(" ")[0]), ["npm", "curl"]);
      assertEquals([...Deno.readDirSync(join(project, ".deno"))].map(({ name }) => name), ["libraries"]);
      assertEquals((await run(["train"])).code, 0);
    });
  },
);

launcherTest("without a Vulkan driver root installs Mesa's, once", async () => {
  await onMachine({ deno: "2.9.6", driver: false, tools: ["apt-get"] }, async (run) => {
    const first = await run(["train"]);
    assertEquals(first.code, 0);
    assertEquals(first.err, "resnext: no Vulkan driver found: installing mesa-vulkan-drivers (apt-get, once)\n");
    assertEquals(first.calls.slice(0, 2), [
      "apt-get -qq update",
      "apt-get -qq install -y --no-install-recommends mesa-vulkan-drivers",
    ]);
    const second = await run(["train"]);
    assertEquals([second.err, second.calls], ["", first.calls.slice(2)]);
  });
});

launcherTest("a user with passwordless sudo installs it through sudo", async () => {
  await onMachine({ deno: "2.9.6", driver: false, tools: ["apt-get", "sudo"] }, async (run) => {
    const { code, calls } = await run(["train"], { FAKE_UID: "1000", FAKE_SUDO: "1" });
    assertEquals(code, 0);
    assertEquals(calls[0], "sudo apt-get -qq update");
    assertStringIncludes(calls.join("\n"), "\napt-get -qq install -y --no-install-recommends mesa-vulkan-drivers\n");
  });
});

launcherTest("a user who may not is told the one command, and the program runs all the same", async () => {
  for (const tools of [["apt-get"], ["apt-get", "sudo"]] as const) {
    await onMachine({ deno: "2.9.6", driver: false, tools }, async (run) => {
      const { code, err, calls } = await run(["checkpoint"], { FAKE_UID: "1000", FAKE_EXIT: "4" });
      assertEquals(code, 4);
      assertEquals(
        err,
        "resnext: no Vulkan driver found; install one with: sudo apt-get install mesa-vulkan-drivers\n",
      );
      assertEquals(calls.map((call) => call.split(" ")[0]), ["deno"]);
    });
  }
});

launcherTest("a driver that cannot be installed is told, and the program runs all the same", async () => {
  await onMachine({ deno: "2.9.6", driver: false, tools: ["apt-get"] }, async (run) => {
    const { code, err } = await run(["train"], { FAKE_OFFLINE: "1" });
    assertEquals(code, 0);
    assertStringIncludes(err, "that failed; install a driver with: sudo apt-get install mesa-vulkan-drivers\n");
  });
  await onMachine({ deno: "2.9.6", driver: false, tools: [] }, async (run) => {
    const { code, err, out } = await run(["train"]);
    assertEquals(code, 0);
    assertStringIncludes(out, "backend \n");
    assertStringIncludes(err, "resnext: no Vulkan driver found; install your system's Mesa Vulkan drivers");
  });
});

launcherTest("a driver that the loader is told of, or that NVIDIA hides, or another system's, is enough", async () => {
  await onMachine({ deno: "2.9.6", driver: false, tools: ["apt-get"] }, async (run, { root }) => {
    const quiet = async (env: Record<string, string>) => {
      const { err, out, calls } = await run(["train"], env);
      assertEquals([err, calls.length], ["", 1]);
      return out;
    };
    assertStringIncludes(await quiet({ FAKE_SYSTEM: "Darwin" }), "backend \n");
    for (const name of ["VK_DRIVER_FILES", "VK_ICD_FILENAMES", "VK_ADD_DRIVER_FILES"]) {
      await quiet({ [name]: "/x.json" });
    }

    const hidden = join(root, "sys/usr/local/nvidia/share/vulkan/icd.d");
    await Deno.mkdir(hidden, { recursive: true });
    await Deno.writeTextFile(join(hidden, "nvidia_icd.json"), "{}");
    assertStringIncludes(await quiet({}), `driver ${hidden}/nvidia_icd.json, backend vulkan\n`);

    await Deno.mkdir(join(root, "sys/etc/vulkan/icd.d"), { recursive: true });
    await Deno.writeTextFile(join(root, "sys/etc/vulkan/icd.d/nvidia_icd.json"), "{}");
    assertStringIncludes(await quiet({}), "driver , backend vulkan\n");
    assertStringIncludes(await quiet({ DENO_WEBGPU_BACKEND: "gl" }), "backend gl\n");
  });
});

Deno.test({
  name: "that libraries are fetched is said once",
  ignore: Deno.build.os === "windows",
  fn: () =>
    onMachine({ tools: [], deno: "2.9.6", libraries: false }, async (run) => {
      const said = "resnext: fetching the libraries it uses (npm, about 70 MB, once)\n";
      assertEquals((await run(["eval", "x"])).err, said);
      assertEquals((await run(["eval", "x"])).err, "");
    }),
});
