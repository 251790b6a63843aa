// The scenario of every EventSource-like client: see the opening, receive
// exactly what is written, be cut at many places, and come back by the
// client's own logic with nothing missing and nothing repeated.

import assert from 'node:assert/strict';
import { Cut, Orders, agree, until } from './gateway.mjs';

export const TYPES = ['order-created', 'order-updated', 'order-shipped'];

// In the opening bytes of an event, within it, at its end and beyond it.
const CUT_BYTES = [0, 1, 9, 40, 137, 300, 611, 1024];

/**
 * `open(url, on)` starts the client; it calls `on.event(type, id, data)` for
 * each thing it shows its user, and gives a function that ends it.
 * `resumed(request)` is the id that the client really sent on coming back.
 * `whole`: cut between events only.
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
    until(() => agree(seen, expected), () => `${expected.length} events, ${seen.length} came`);

  await more(6);
  await arrived();
  for (const bytes of CUT_BYTES) {
    const connections = cut.to('/orders/events').length;
    if (whole) cut.afterBlocks('/orders/events', 1 + (bytes % 4));
    else cut.afterBytes('/orders/events', bytes);
    await more(7);
    const back = () => cut.to('/orders/events').length > connections;
    await until(back, () => `the client to come back after a cut at ${bytes}`);
    await more(2);
    await arrived();
    const id = resumed(cut.to('/orders/events').at(-1));
    assert.ok(id === start || ids.includes(id), `resumed after ${id}, which it was never given`);
  }
  assert.equal(openings.length, 1 + CUT_BYTES.length, 'one stream-open for each connection');
  assert.deepEqual(strange, [], 'nothing that is no event, opening or heartbeat');
  const page = await orders.page(start);
  assert.deepEqual(page.map((event) => event.id), expected, 'the log holds just that');
  await end();
  cut.close();
  return `${expected.length} events over ${CUT_BYTES.length} cuts`;
}

/** The id in the Last-Event-ID header, which must not come in the query too. */
export function byHeader(request) {
  assert.ok(!request.path.includes('lastEventId'), request.path);
  return request.headers['last-event-id'];
}
