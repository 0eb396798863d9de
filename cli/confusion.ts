/** What a confusion matrix tells: a row is a class, a column what its images were taken for. */

/** Images by class and by what they were taken for. */
export type Confusion = readonly (readonly number[])[];

/** How a class fared. */
export interface ClassResult {
  readonly images: number;
  readonly correct: number;
  /** NaN where there are no images of the class. */
  readonly accuracy: number;
}

/** Images of one class taken for another. */
export interface Mistake {
  readonly count: number;
  readonly label: number;
  readonly taken: number;
}

/** Accuracy by class, in the order of the labels. */
export function byClass(confusion: Confusion): ClassResult[] {
  return confusion.map((row, label) => {
    const images = row.reduce((sum, count) => sum + count, 0);
    return { images, correct: row[label], accuracy: row[label] / images };
  });
}

/** The commonest mistakes, at most `most`. */
export function commonestMistakes(confusion: Confusion, most: number): Mistake[] {
  const all: Mistake[] = [];
  for (const [label, row] of confusion.entries()) {
    for (const [taken, count] of row.entries()) {
      if (count > 0 && taken !== label) all.push({ count, label, taken });
    }
  }
  return all.sort((a, b) => b.count - a.count).slice(0, most);
}
