import { assert, assertEquals } from "@std/assert";
import { float32Tensor } from "../../nn/safetensors.ts";
import { casesOf } from "../parity/parity_case.ts";
import { trainingForms } from "../parity/training.ts";
import { Golden, goldens, gpuTest } from "../support.ts";

// Agreement with PyTorch over all steps is `tests/parity_test.ts`'s; here is what the check itself must not let through.

/** A golden file with one loss of a case changed by 1 %. */
function alteredLoss(golden: Golden, name: string, step: number): Golden {
  const losses = golden.values(`${name}.losses`);
  losses[step] *= 1.01;
  const tensors = new Map(golden.file.tensors);
  tensors.set(`${name}.losses`, float32Tensor(losses, [losses.length]));
  return new Golden({ ...golden.file, tensors });
}

for (const step of [1, 2]) {
  gpuTest(`a loss off by 1 % is no rounding of the start: step ${step}`, async (device) => {
    const golden = goldens("narrow_training");
    const [name] = golden.cases;
    const [it] = casesOf(alteredLoss(golden, name, step));
    const findings = await trainingForms.find((form) => form.matches(it))!.check(device, it);
    assert(!findings.ok, `${findings.note}: ${JSON.stringify(findings.worst)}`);
    assertEquals(findings.worst?.what, `losses[${step}]`);
  });
}
