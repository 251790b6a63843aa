// Code for all scripts: REST writes, and a proxy that resets connections.

import net from 'node:net';
import { readFileSync } from 'node:fs';

/** Returns the version of an installed package. */
export function version(name) {
  const file = new URL(`node_modules/${name}/package.json`, import.meta.url);
  return JSON.parse(readFileSync(file, 'utf8')).version;
}

/** Waits until `condition` is true. If the gateway fails, the limit ends the wait. */
export async function until(condition, what, limitMs = 15_000) {
  const deadline = Date.now() + limitMs;
  while (!(await condition())) {
    if (Date.now() > deadline) throw new Error(`timed out waiting for: ${what()}`);
    await new Promise((resolve) => setTimeout(resolve, 10));
  }
}

/** Writes to the collection `orders`. Each method returns the event id. */
export class Orders {
  #writes = 0;

  constructor(base) {
    this.base = base.replace(/\/$/, '');
  }

  async #request(method, path, body, headers = {}) {
    const response = await fetch(this.base + path, {
      method,
      headers: body ? { 'content-type': 'application/json', ...headers } : headers,
      body: body && JSON.stringify(body),
    });
    const text = await response.text();
    if (!response.ok) throw new Error(`${method} ${path} -> ${response.status} ${text}`);
    const etag = response.headers.get('etag');
    return { etag: etag?.replace(/^"|"$/g, ''), body: text && JSON.parse(text) };
  }

  /** Creates an order. Returns its id and its event id. */
  async create(fields = {}) {
    const { etag, body } = await this.#request('POST', '/orders', { status: 'PROCESSING', ...fields });
    return { id: body.id, event: etag };
  }

  async patch(id, fields) {
    return (await this.#request('PATCH', `/orders/${id}`, fields)).etag;
  }

  async ship(id, data) {
    const body = { type: 'order-shipped', data };
    return (await this.#request('POST', `/orders/${id}/events`, body)).body.id;
  }

  /** Makes `count` writes of all kinds. Returns their event ids in order. Some
   * writes have text that a protocol could damage: line breaks, other scripts,
   * a long text. */
  async publish(count) {
    const events = [];
    let id;
    for (let n = 0; n < count; n += 1) {
      const write = this.#writes++;
      if (write % 3 === 0 || id === undefined) {
        const created = await this.create({ note: 'line one\nline two\r\n\r\nid: 7' });
        id = created.id;
        events.push(created.event);
      } else if (write % 3 === 1) {
        events.push(await this.patch(id, { note: `zażółć gęślą jaźń 🎏 ${write}` }));
      } else {
        events.push(await this.ship(id, { tracking: 'x'.repeat(50 * (write % 7)) }));
      }
    }
    return events;
  }

  /** Returns the events of the log after an event id. */
  async page(after) {
    const path = `/orders/events?limit=1000&after=${after}`;
    return (await this.#request('GET', path, undefined, { accept: 'application/json' })).body.data;
  }

  /** Creates an order. Returns the newest event id of the log. */
  async head() {
    return (await this.create()).event;
  }
}

/** Whether `seen` equals `expected`. Throws if it is not a prefix of `expected`. */
export function agree(seen, expected) {
  for (const [n, id] of seen.entries()) {
    if (id !== expected[n]) {
      throw new Error(`event ${n} is ${id}, not ${expected[n]}; before it ${seen.slice(Math.max(0, n - 3), n)}`);
    }
  }
  return seen.length === expected.length;
}

/** A TCP proxy to the gateway that resets connections in the middle. */
export class Cut {
  /** The heads of all requests, in order: `{ path, headers, connection }`. */
  requests = [];
  #server;

  static async before(base) {
    const cut = new Cut();
    const { hostname, port } = new URL(base);
    cut.#server = net.createServer({ noDelay: true }, (client) => {
      cut.#relay(client, net.connect({ port, host: hostname, noDelay: true }));
    });
    await new Promise((resolve) => cut.#server.listen(0, '127.0.0.1', resolve));
    cut.url = `http://127.0.0.1:${cut.#server.address().port}`;
    return cut;
  }

  /** Returns the requests whose path begins with `path`. */
  to(path) {
    return this.requests.filter((request) => request.path.startsWith(path));
  }

  /** Passes `bytes` more of the newest stream of `path`, then resets it. */
  afterBytes(path, bytes) {
    let left = bytes;
    this.to(path).at(-1).connection.allow = (chunk) => {
      const passed = Math.min(left, chunk.length);
      left -= passed;
      return { passed, cut: left === 0 && passed < chunk.length };
    };
  }

  /** Resets the newest stream of `path` after `blocks` more blank lines. Each
   * blank line ends an SSE block. */
  afterBlocks(path, blocks) {
    let left = blocks;
    this.to(path).at(-1).connection.allow = (chunk) => {
      let at = 0;
      while (left > 0 && (at = chunk.indexOf('\n\n', at)) >= 0) {
        at += 2;
        left -= 1;
      }
      return left > 0 ? { passed: chunk.length, cut: false } : { passed: at, cut: true };
    };
  }

  close() {
    this.#server.close();
  }

  #relay(client, gateway) {
    const connection = { allow: (chunk) => ({ passed: chunk.length, cut: false }) };
    let head = '';
    client.on('data', (chunk) => {
      gateway.write(chunk);
      if (head === undefined) return;
      head += chunk.toString('latin1');
      if (!head.includes('\r\n\r\n')) return;
      const request = this.#request(head, connection);
      head = request.headers.upgrade ? undefined : '';
    });
    gateway.on('data', (chunk) => {
      if (client.destroyed) return;
      const { passed, cut } = connection.allow(chunk);
      if (!cut) {
        client.write(chunk.subarray(0, passed));
        return;
      }
      connection.allow = () => ({ passed: 0, cut: false });
      client.write(chunk.subarray(0, passed), () => client.resetAndDestroy());
      gateway.destroy();
    });
    for (const [socket, other] of [[client, gateway], [gateway, client]]) {
      socket.on('end', () => other.end());
      socket.on('close', () => other.destroy());
      socket.on('error', () => other.destroy());
    }
  }

  #request(head, connection) {
    const [line, ...fields] = head.slice(0, head.indexOf('\r\n\r\n')).split('\r\n');
    const headers = {};
    for (const field of fields) {
      const colon = field.indexOf(':');
      headers[field.slice(0, colon).toLowerCase()] = field.slice(colon + 1).trim();
    }
    const request = { path: line.split(' ')[1], headers, connection };
    this.requests.push(request);
    return request;
  }
}

/** Runs a scenario with the base URL of the command line. Prints its result,
 * which is the line that the runner shows. */
export async function main(scenario) {
  try {
    console.log(await scenario(process.argv[2]));
    process.exit(0);
  } catch (error) {
    console.error(error);
    process.exit(1);
  }
}
