// A network that breaks when it is told to: a TCP proxy between a client and the relay.

import { connect, createServer } from "node:net";

export class CuttingProxy {
  // `away`: nobody can connect. `latest`: what was last read from the relay.
  connections = 0; cuts = 0; away = false; latest = "";
  #open = new Set();

  // In front of `target`, a URL. `allowance` says how many bytes of answers the connection of this
  // number may carry before it falls silent and breaks `silence` milliseconds later; without it none
  // does, but by `cut`.
  static async start(target, { allowance = () => Infinity, silence = 0 } = {}) {
    const proxy = Object.assign(new CuttingProxy(), { target: new URL(target), allowance, silence });
    proxy.server = createServer(client => proxy.#carry(client));
    await new Promise(listens => proxy.server.listen(0, "127.0.0.1", listens));
    proxy.url = `${proxy.target.protocol}//127.0.0.1:${proxy.server.address().port}`;
    return proxy;
  }

  #carry(client) {
    if (this.away) return client.resetAndDestroy();
    const { hostname: host, port } = this.target, relay = connect({ host, port });
    const carried = { client, relay, broken: false };
    let left = this.allowance(++this.connections);
    const close = () => {
      if (carried.broken) return;
      client.destroy();
      relay.destroy();
      this.#open.delete(carried);
    };
    this.#open.add(carried);
    for (const socket of [client, relay]) socket.setNoDelay(true).on("error", close).on("close", close);
    client.pipe(relay);
    client.on("drain", () => left > 0 && relay.resume());
    relay.on("end", () => client.end());
    relay.on("data", bytes => {
      this.latest = bytes;
      const some = bytes.subarray(0, left);
      left -= some.length;
      if (!client.write(some)) relay.pause();
      if (some.length === bytes.length) return;
      relay.removeAllListeners("data").pause();
      if (this.silence) setTimeout(() => carried.broken || this.#break(carried), this.silence);
      else this.#break(carried);
    });
  }

  // By a reset or in order; at every eighth the relay notices nothing: its side stays, unread.
  #break(carried) {
    const { client, relay } = carried, kind = this.cuts++ % 8;
    carried.broken = true;
    client.unpipe(relay);
    relay.removeAllListeners("data").pause();
    if (kind !== 7) {
      relay.destroy();
      this.#open.delete(carried);
    }
    if (kind % 2) client.write("", () => client.resetAndDestroy()); else client.destroySoon();
  }

  // Breaks all that there are.
  cut() {
    for (const carried of this.#open) if (!carried.broken) this.#break(carried);
  }

  close() {
    this.server.close();
    for (const { client, relay } of this.#open) for (const socket of [client, relay]) socket.destroy();
  }
}

// Allowances for one answer: the first connections live long enough for a client to learn an id,
// preflight and all, the others anything from `least` to `most`, by https behind a handshake. There
// a record counts only as a whole, and one of a packet is more than some of them carry: every eighth
// carries a few, or clients that give up after ten in vain would now and then. The same in every run.
export function allowances(target, { least = 1, most = 5000 } = {}) {
  const handshake = target.startsWith("https:") ? 2000 : 0;
  let seed = 1;
  const random = () => (seed = seed * 48_271 % 2_147_483_647) / 2_147_483_647;
  return connection => handshake + (connection <= 3 ? 3000
    : handshake && connection % 8 === 0 ? 5000 : Math.round(least + random() * (most - least)));
}
