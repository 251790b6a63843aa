// The scenario for every client like EventSource. The client receives the
// opening and exactly the written events. It is cut at many positions. It
// reconnects by its own logic. No event is missing or repeated.

import assert from 'node:assert/strict';
import { Cut, Orders, agree, until } from './gateway.mjs';

export const TYPES = ['order-created', 'order-updated', 'order-shipped'];

// Cuts in the first bytes of an event, within it, at its end and after it.
const CUT_BYTES = [0, 1, 9, 40, 137, 300, 611, 1024];

/**
 * `open(url, on)` starts the client and returns a function that ends it. The
 * client calls `on.event(type, id, data)` for each event that it reports.
 * `resumed(request)` returns the id that the client sent when it reconnected.
 * With `whole`, the proxy cuts only between events.
 */
export async function follow(base, { open, resumed, whole = false }) {
  const orders = new Orders(base);
  const cut = await Cut.before(base);
  const seen = [];
  const openings = [];
  const ids = [];
  const strange = [];
  const on = {
    event(type, id, data) {
      ids.push(id);
      if (type === 'stream-open') openings.push(JSON.parse(data));
      else if (TYPES.includes(type)) {
        JSON.parse(data);
        seen.push(id);
      } else if (type !== 'heartbeat') strange.push({ type, id, data });
    },
  };
  const end = await open(`${cut.url}/orders/events`, on);
  await until(() => openings.length === 1, () => 'the first stream-open');
  assert.deepEqual(seen, [], 'stream-open comes before any event');
  const start = openings[0].cursor;
  assert.equal(ids[0], start, 'stream-open carries its cursor as id');

  const expected = [];
  const more = async (count) => expected.push(...(await orders.publish(count)));
  const arrived = () =>
    until(() => agree(seen, expected), () => `${expected.length} events, ${seen.length} received`);

  await more(6);
  await arrived();
  for (const bytes of CUT_BYTES) {
    const connections = cut.to('/orders/events').length;
    if (whole) cut.afterBlocks('/orders/events', 1 + (bytes % 4));
    else cut.afterBytes('/orders/events', bytes);
    await more(7);
    const back = () => cut.to('/orders/events').length > connections;
    await until(back, () => `a reconnect after a cut at ${bytes}`);
    await more(2);
    await arrived();
    const id = resumed(cut.to('/orders/events').at(-1));
    assert.ok(id === start || ids.includes(id), `resumed after ${id}, which the client has never received`);
  }
  assert.equal(openings.length, 1 + CUT_BYTES.length, 'one stream-open for each connection');
  assert.deepEqual(strange, [], 'only events, openings and heartbeats');
  const page = await orders.page(start);
  assert.deepEqual(page.map((event) => event.id), expected, 'the log has exactly the written events');
  await end();
  cut.close();
  return `${expected.length} events over ${CUT_BYTES.length} cuts`;
}

/** Returns the id in the Last-Event-ID header. The query must not have it too. */
export function byHeader(request) {
  assert.ok(!request.path.includes('lastEventId'), request.path);
  return request.headers['last-event-id'];
}
