import assert from 'node:assert/strict';
import polyfill from 'event-source-polyfill';
import { main, version } from './gateway.mjs';
import { TYPES, follow } from './sse.mjs';

await main(async (base) => {
  const open = (url, on) => {
    const client = new polyfill.EventSourcePolyfill(url);
    for (const type of ['message', 'stream-open', 'heartbeat', 'gap', 'stream-close', ...TYPES]) {
      client.addEventListener(type, (event) => on.event(type, event.lastEventId, event.data));
    }
    return () => client.close();
  };
  // The polyfill sends the id in the query instead of the header.
  const resumed = ({ path, headers }) => {
    assert.equal(headers['last-event-id'], undefined);
    return new URL(path, base).searchParams.get('lastEventId');
  };
  const what = await follow(base, { open, resumed });
  const name = 'event-source-polyfill';
  return `${name} ${version(name)}  resumed with lastEventId query, ${what}`;
});
