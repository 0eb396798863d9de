import { assert } from "@std/assert";
import { float32Tensor } from "../../nn/safetensors.ts";
import { casesOf } from "../parity/parity_case.ts";
import { trainingForms } from "../parity/training.ts";
import { Golden, goldens, gpuTest } from "../support.ts";

// Agreement with PyTorch over all steps is `tests/parity_test.ts`'s; here is what the check itself must not let through.

/** A golden file with one value of a tensor changed by 1 %. */
function altered(golden: Golden, key: string, index: number): Golden {
  const values = golden.values(key);
  values[index] *= 1.01;
  const tensors = new Map(golden.file.tensors);
  tensors.set(key, float32Tensor(values, golden.shape(key)));
  return new Golden({ ...golden.file, tensors });
}

for (const [what, index] of [["losses", 1], ["losses", 7], ["eval_logits", 0]] as const) {
  gpuTest(`a value off by 1 % is no rounding of the start: ${what}[${index}]`, async (device) => {
    const golden = goldens("narrow_training");
    const [name] = golden.cases;
    // The largest of them: the error is relative to it.
    const values = golden.values(`${name}.${what}`);
    const at = what === "losses" ? index : values.indexOf(values.reduce((a, b) => Math.abs(a) > Math.abs(b) ? a : b));
    const [it] = casesOf(altered(golden, `${name}.${what}`, at));
    const findings = await trainingForms.find((form) => form.matches(it))!.check(device, it);
    assert(!findings.ok, `${findings.note}: ${JSON.stringify(findings.worst)}`);
    assert(findings.worst!.what.startsWith(what), JSON.stringify(findings.worst));
  });
}
