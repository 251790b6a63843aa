import assert from 'node:assert/strict';
import { EventSource } from 'eventsource';
import { main, version } from './gateway.mjs';
import { TYPES, byHeader, follow } from './sse.mjs';

await main(async (base) => {
  let client;
  const open = (url, on) => {
    client = new EventSource(url);
    for (const type of ['message', 'stream-open', 'heartbeat', 'gap', 'stream-close', ...TYPES]) {
      client.addEventListener(type, (event) => on.event(type, event.lastEventId, event.data));
    }
    return () => client.close();
  };
  const what = await follow(base, { open, resumed: byHeader });
  assert.equal(client.readyState, EventSource.CLOSED);
  return `eventsource ${version('eventsource')}  resumed with Last-Event-ID header, ${what}`;
});
