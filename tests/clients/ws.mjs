import assert from 'node:assert/strict';
import WebSocket from 'ws';
import { Cut, Orders, agree, main, until, version } from './gateway.mjs';

/** A socket, its received messages, and its close code. */
class Socket {
  messages = [];
  opened = false;
  closed = undefined;
  pongs = 0;
  #commands = 0;

  constructor(url, protocols = [], id = 0) {
    this.prefix = `c${id}-`;
    this.ws = new WebSocket(url.replace(/^http/, 'ws'), protocols);
    this.ws.on('open', () => (this.opened = true));
    this.ws.on('pong', () => (this.pongs += 1));
    this.ws.on('message', (bytes, binary) => {
      assert.equal(binary, false);
      this.messages.push(JSON.parse(bytes));
    });
    this.ws.on('close', (code, reason) => (this.closed = { code, reason: reason.toString() }));
    this.ws.on('error', () => {});
  }

  async open() {
    await until(() => this.opened || this.closed, () => 'the socket to open');
    assert.ok(this.opened, `closed with ${JSON.stringify(this.closed)}`);
    return this;
  }

  send(text) {
    this.ws.send(text);
  }

  /** Sends a command. Returns its response or error. */
  async command(data) {
    const id = `${this.prefix}${this.#commands++}`;
    this.send(JSON.stringify({ id, type: 'command', timestamp: new Date().toISOString(), data }));
    const answer = () => this.messages.find((message) => message.id === id);
    await until(answer, () => `an answer to ${JSON.stringify(data)}: ${JSON.stringify(this.messages)}`);
    return answer();
  }

  of(type) {
    return this.messages.filter((message) => message.type === type);
  }

  events() {
    return this.of('event').map((event) => event.id);
  }

  controls() {
    return this.of('control').map((control) => control.data.type);
  }

  async received(expected) {
    await until(
      () => agree(this.events(), expected),
      () => `${expected.length} events, ${this.events().length} received`,
    );
  }

  async ended() {
    await until(() => this.closed, () => 'the socket to close');
    return this.closed;
  }

  async close() {
    this.ws.close(1000);
    assert.equal((await this.ended()).code, 1000);
  }
}

async function replay(base, orders) {
  const from = await orders.head();
  const expected = await orders.publish(5);
  const socket = await new Socket(`${base}/orders/ws?from=${from}`, ['streamgate.v1']).open();
  assert.equal(socket.ws.protocol, 'streamgate.v1');
  assert.equal(socket.ws.extensions, '', 'the gateway does not accept permessage-deflate');
  await socket.received(expected);
  assert.deepEqual(socket.controls(), ['stream-open'], 'a stream-open, because from is present');
  assert.equal(socket.messages[0].type, 'control');
  expected.push(...(await orders.publish(5)));
  await socket.received(expected);
  for (const event of socket.of('event')) {
    assert.deepEqual(Object.keys(event), ['id', 'type', 'timestamp', 'data']);
    assert.equal(event.data.collection, 'orders');
    assert.match(event.data.type, /^order-(created|updated|shipped)$/);
    assert.equal(event.data.data.orderId, event.data.subject);
  }
  await socket.close();
}

async function commands(base, orders) {
  const socket = await new Socket(`${base}/ws`).open();
  const order = await orders.create({ status: 'NEW' });

  for (const bad of ['{"type":', 'null', '[1,2]', '"text"', '{}', '']) {
    const errors = socket.of('error').length;
    socket.send(bad);
    await until(() => socket.of('error').length > errors, () => `an error for ${bad}`);
  }
  assert.equal((await socket.command({ command: 'no-such' })).type, 'error');
  assert.equal((await socket.command({ command: 'get-status' })).type, 'error', 'the resource is missing');
  assert.equal((await socket.command({ command: 'subscribe', collection: 'no-such' })).type, 'error');
  assert.equal((await socket.command({ command: 'ping' })).type, 'response');

  const status = await socket.command({ command: 'get-status', collection: 'orders', resource: order.id });
  assert.equal(status.type, 'response', JSON.stringify(status));
  assert.ok(JSON.stringify(status.data).includes('"NEW"'), JSON.stringify(status));

  const subscribe = { command: 'subscribe', collection: 'orders', from: order.event };
  const subscribed = await socket.command(subscribe);
  assert.equal(subscribed.type, 'response', JSON.stringify(subscribed));
  assert.equal((await socket.command(subscribe)).type, 'error', 'the subscription overlaps the first');
  const expected = await orders.publish(4);
  await socket.received(expected);

  const unsubscribed = await socket.command({ command: 'unsubscribe', collection: 'orders' });
  assert.equal(unsubscribed.type, 'response', JSON.stringify(unsubscribed));
  await orders.publish(3);
  assert.equal((await socket.command({ command: 'ping' })).type, 'response');
  assert.deepEqual(socket.events(), expected, 'no event after unsubscribe');

  socket.ws.ping('are you there');
  await until(() => socket.pongs === 1, () => 'a pong');
  await socket.close();
}

async function window(base, orders) {
  const from = await orders.head();
  const expected = await orders.publish(5);
  const socket = await new Socket(`${base}/ws`).open();
  const subscribe = { command: 'subscribe', collection: 'orders', from, window: 2 };
  assert.equal((await socket.command(subscribe)).type, 'response');
  await socket.received(expected.slice(0, 2));
  assert.equal((await socket.command({ command: 'ping' })).type, 'response');
  assert.deepEqual(socket.events(), expected.slice(0, 2), 'no more events than the window allows');
  for (const n of [1, 2]) {
    const request = { command: 'request', collection: 'orders', n };
    assert.equal((await socket.command(request)).type, 'response');
    await socket.received(expected.slice(0, n === 1 ? 3 : 5));
  }
  await socket.close();
}

async function bare(base, orders) {
  const order = await orders.create({ status: 'NEW' });
  const socket = await new Socket(`${base}/orders/${order.id}/ws`).open();
  socket.send('{"command":"get-status"}');
  await until(() => socket.messages.length === 1, () => 'the status');
  const [status] = socket.messages;
  assert.deepEqual(Object.keys(status), ['type', 'data']);
  assert.equal(status.type, 'status');
  assert.equal(status.data.orderId, order.id);
  assert.equal(status.data.status, 'NEW');
  await orders.create({ status: 'ANOTHER' });
  await orders.patch(order.id, { status: 'SHIPPED' });
  await until(() => socket.messages.length > 1, () => 'the update');
  assert.equal(socket.messages.length, 2);
  assert.equal(socket.messages[1].type, 'update');
  assert.equal(socket.messages[1].data.orderId, order.id);
  assert.equal(socket.messages[1].data.status, 'SHIPPED');
  socket.send('{"command":');
  await until(() => socket.messages.length > 2, () => 'an error');
  assert.equal(socket.messages[2].type, 'error');
  socket.send('{"command":"get-status"}');
  await until(() => socket.messages.length > 3, () => 'the status again');
  assert.equal(socket.messages[3].data.status, 'SHIPPED');
  await socket.close();
}

async function closes(base) {
  const ended = async (send) => {
    const socket = await new Socket(`${base}/ws`).open();
    send(socket.ws);
    return (await socket.ended()).code;
  };
  assert.equal(await ended((ws) => ws.send(Buffer.from([1, 2, 3]))), 1003);
  assert.equal(await ended((ws) => ws.send('x'.repeat((1 << 20) + 1))), 1009);
  assert.equal(await ended((ws) => ws.send(Buffer.from([0xff, 0xfe]), { binary: false })), 1007);
  assert.equal(await ended((ws) => ws._socket.write(Buffer.from([0xf1, 0x80, 1, 2, 3, 4]))), 1002);
  assert.equal(await ended((ws) => ws.close(4001, 'ours')), 4001);
}

/** Cuts a socket at many positions. Each new socket starts at the last received id. */
async function cuts(base, orders) {
  const cut = await Cut.before(base);
  const first = await orders.head();
  const expected = [];
  const seen = [];
  let from = first;
  const places = [0, 1, 3, 60, 200, 333, 700];
  for (const [n, bytes] of [...places, undefined].entries()) {
    const socket = await new Socket(`${cut.url}/orders/ws?from=${from}`, [], n).open();
    await until(() => socket.controls().includes('stream-open'), () => 'stream-open');
    if (bytes === undefined) {
      expected.push(...(await orders.publish(1)));
      await until(() => agree([...seen, ...socket.events()], expected), () => 'the last event');
      await socket.close();
      break;
    }
    cut.afterBytes('/orders/ws', bytes);
    expected.push(...(await orders.publish(7)));
    const { code } = await socket.ended();
    assert.equal(code, 1006, 'cut without a close frame');
    seen.push(...socket.events());
    agree(seen, expected);
    from = seen.at(-1) ?? first;
  }
  cut.close();
  return `${expected.length} events over ${places.length} cuts`;
}

await main(async (base) => {
  const orders = new Orders(base);
  await replay(base, orders);
  await commands(base, orders);
  await window(base, orders);
  await bare(base, orders);
  await closes(base);
  const what = await cuts(base, orders);
  return `ws ${version('ws')}  resumed with from=, ${what}; commands, windows, bare mode, close codes`;
});
