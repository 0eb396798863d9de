/** CIFAR-100: 50,000 training and 10,000 test images of a hundred classes, in two files; see `cifar.ts`. */

import type { CifarVersion } from "./cifar.ts";

/** The classes in the order of their labels. */
export const cifar100ClassNames: readonly string[] = (
  "apple aquarium_fish baby bear beaver bed bee beetle bicycle bottle bowl boy bridge bus butterfly camel can " +
  "castle caterpillar cattle chair chimpanzee clock cloud cockroach couch crab crocodile cup dinosaur dolphin " +
  "elephant flatfish forest fox girl hamster house kangaroo keyboard lamp lawn_mower leopard lion lizard " +
  "lobster man maple_tree motorcycle mountain mouse mushroom oak_tree orange orchid otter palm_tree pear " +
  "pickup_truck pine_tree plain plate poppy porcupine possum rabbit raccoon ray road rocket rose sea seal shark " +
  "shrew skunk skyscraper snail snake spider squirrel streetcar sunflower sweet_pepper table tank telephone " +
  "television tiger tractor train trout tulip turtle wardrobe whale willow_tree wolf woman worm"
).split(" ");

/** The data set: of a record's two labels the second is the class, the first one of twenty groups of classes. */
export const cifar100: CifarVersion = {
  name: "cifar100",
  classNames: cifar100ClassNames,
  labelBytes: 2,
  folder: "cifar-100-binary",
  trainFiles: [{ name: "train.bin", size: 50_000 * 3074, md5: "6172c7755cfe09b2fe270c85cebc1b15" }],
  testFiles: [{ name: "test.bin", size: 10_000 * 3074, md5: "4499cfba6c016c1be1438163640a0898" }],
  otherFiles: [],
  mean: [0.5071, 0.4865, 0.4409],
  std: [0.2673, 0.2564, 0.2762],
};
