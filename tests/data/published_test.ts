/** Facts of published data sets and networks, beside where they are published. */

import { assertEquals } from "@std/assert";
import { cifar10 } from "../../data/cifar10.ts";
import { cifar100 } from "../../data/cifar100.ts";
import { imagenetLabels } from "../../data/imagenet_labels.ts";

Deno.test("labels of ImageNet stand in torchvision's order", () => {
  // torchvision/models/_meta.py
  const known = { 0: "tench", 1: "goldfish", 207: "golden retriever", 285: "Egyptian cat", 999: "toilet tissue" };
  for (const [index, name] of Object.entries(known)) assertEquals(imagenetLabels[Number(index)], name);
  assertEquals(imagenetLabels.length, 1000);
});

Deno.test("CIFAR's channels are normalized red first, by the numbers in use", () => {
  // The standard deviation over all pixels: kuangliu/pytorch-cifar, issue 19. Many have a smaller one, the mean of images'.
  assertEquals([cifar10.mean, cifar10.std], [[0.4914, 0.4822, 0.4465], [0.2470, 0.2435, 0.2616]]);
  assertEquals([cifar100.mean, cifar100.std], [[0.5071, 0.4865, 0.4409], [0.2673, 0.2564, 0.2762]]);
});
