import { main, version } from './gateway.mjs';
import { byHeader, follow } from './sse.mjs';

// It is made for browsers, and needs this much of one.
globalThis.window = globalThis;
globalThis.document = { hidden: false, addEventListener() {}, removeEventListener() {} };
const { fetchEventSource } = await import('@microsoft/fetch-event-source/lib/cjs/index.js');

await main(async (base) => {
  const open = (url, on) => {
    const control = new AbortController();
    fetchEventSource(url, {
      signal: control.signal,
      openWhenHidden: true,
      // Without an event type: a block that shows as an empty message.
      onmessage: ({ event, id, data }) => on.event(event || 'message', id, data),
      onerror: () => undefined,
    });
    return () => control.abort();
  };
  // Cut between events: it takes an id for received as soon as it has read
  // the id's line, so that a cut within an event makes it skip that event.
  const what = await follow(base, { open, resumed: byHeader, whole: true });
  const name = '@microsoft/fetch-event-source';
  return `${name} ${version(name)}  resumed with last-event-id header, ${what}`;
});
