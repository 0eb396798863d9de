/** What went wrong because of something the user can change: the message is written for people and shown without a stack. */
export class UserError extends Error {
  /** Tells it from other errors in a log. */
  override name = "UserError";
  /** 2 for a mistake in how a command was called, 1 for anything else. */
  readonly exitCode: 1 | 2;

  /** What is wrong and what to do, in a line. */
  constructor(message: string, options: { exitCode?: 1 | 2; cause?: unknown } = {}) {
    super(message, { cause: options.cause });
    this.exitCode = options.exitCode ?? 1;
  }
}
