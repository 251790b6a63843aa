import { main, version } from './gateway.mjs';
import { byHeader, follow } from './sse.mjs';

// The library is for browsers and needs these objects of a browser.
globalThis.window = globalThis;
globalThis.document = { hidden: false, addEventListener() {}, removeEventListener() {} };
const { fetchEventSource } = await import('@microsoft/fetch-event-source/lib/cjs/index.js');

await main(async (base) => {
  const open = (url, on) => {
    const control = new AbortController();
    fetchEventSource(url, {
      signal: control.signal,
      openWhenHidden: true,
      // A block without an event type has the type `message`.
      onmessage: ({ event, id, data }) => on.event(event || 'message', id, data),
      onerror: () => undefined,
    });
    return () => control.abort();
  };
  // The proxy cuts only between events. This library stores an id as soon as it
  // has read the line of the id. After a cut within an event, it would therefore
  // skip this event.
  const what = await follow(base, { open, resumed: byHeader, whole: true });
  const name = '@microsoft/fetch-event-source';
  return `${name} ${version(name)}  resumed with last-event-id header, ${what}`;
});
