/** A server's port: it stays open where connections cannot be accepted, and closes in time whatever clients do. */

import { UserError } from "../kernels/user_error.ts";

/** Where to listen, and who answers. */
export interface ListenerOptions {
  /** A name or an address, an IPv6 one without brackets. */
  readonly host: string;
  readonly port: number;
  /** Never rejects. */
  readonly handler: (request: Request) => Promise<Response>;
  readonly warn: (message: string) => void;
}

/** Seconds between two tries to listen, and between two warnings. */
const AGAIN = 1, QUIET = 60;
/** Seconds after which clients that are connected when descriptors run out are cut off, unless they wait for an answer. */
const PATIENCE = 5;

/** Listens until closed. */
export class HttpListener {
  readonly #options: ListenerOptions;
  readonly #servers = new Set<Deno.HttpServer<Deno.NetAddr>>();
  readonly #answering = new Set<Promise<Response>>();
  #warnedAt = -Infinity;
  #closing = false;
  /** The port, where 0 was asked for too. */
  readonly port: number;

  /** @throws {UserError} where it cannot listen. */
  constructor(options: ListenerOptions) {
    this.#options = options;
    try {
      this.port = this.#open(options.port);
    } catch (error) {
      throw refusal(error as Error, options);
    }
  }

  #open(port: number): number {
    const server = Deno.serve(
      { hostname: this.#options.host, port, onListen() {} },
      (request) => this.#answer(request),
    );
    this.#servers.add(server);
    server.finished.catch((error) => this.#reopen(server, error));
    return server.addr.port;
  }

  async #answer(request: Request): Promise<Response> {
    const answer = this.#options.handler(request);
    this.#answering.add(answer);
    return await answer.finally(() => this.#answering.delete(answer));
  }

  /** Deno ends a server that cannot accept a connection. Those that it has live on: they hold what others need. */
  async #reopen(failed: Deno.HttpServer<Deno.NetAddr>, error: Error): Promise<void> {
    if (performance.now() - this.#warnedAt > QUIET * 1000) {
      this.#warnedAt = performance.now();
      this.#options.warn(
        `Cannot accept connections: ${
          error.message.replace("Error: ", "")
        }; idle ones are closed; more descriptors: ulimit -n`,
      );
    }
    while (!this.#closing) {
      try {
        this.#open(this.port);
        break;
      } catch {
        await seconds(AGAIN);
      }
    }
    await seconds(PATIENCE);
    await failed.shutdown();
    this.#servers.delete(failed);
  }

  /** Accepts nothing more, waits for the answers being made, and then for clients to take them: so many seconds at most. */
  async close(most: number): Promise<void> {
    this.#closing = true;
    const closed = Promise.all([...this.#servers].map((server) => server.shutdown()));
    await Promise.all(this.#answering);
    await Promise.race([closed, seconds(most)]);
  }
}

function seconds(count: number): Promise<void> {
  return new Promise((resolve) => setTimeout(resolve, count * 1000));
}

function refusal(error: Error, { host, port }: ListenerOptions): UserError {
  const where = `${host.includes(":") ? `[${host}]` : host}:${port}`;
  return new UserError(`Cannot listen on ${where}: ${reason(error)}`, { cause: error });
}

function reason(error: Error): string {
  if (error instanceof Deno.errors.AddrInUse) {
    return "the port is taken; name another with --port, or 0 for any free one";
  }
  if (error instanceof Deno.errors.AddrNotAvailable) return "this machine has no such address; see --host";
  if (error instanceof Deno.errors.PermissionDenied || error instanceof Deno.errors.NotCapable) {
    return "permission denied; ports below 1024 often need more of it";
  }
  return error.message;
}
