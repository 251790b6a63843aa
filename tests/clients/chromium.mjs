import assert from 'node:assert/strict';
import { chromium } from 'playwright-core';
import { Cut, Orders, agree, main, until } from './gateway.mjs';
import { TYPES, byHeader, follow } from './sse.mjs';

const BROWSER = process.env.CHROMIUM ?? '/usr/bin/chromium';
const QUIET = [
  '--no-sandbox',
  '--disable-gpu',
  '--disable-quic',
  '--no-first-run',
  '--disable-background-networking',
  '--disable-component-update',
  '--disable-sync',
];

/** Opens a page of the gateway itself, so that its streams have the same origin.
 * Code in the page calls `report(...)`, which calls `listener` here. */
async function page(browser, url, listener) {
  const context = await browser.newContext();
  const page = await context.newPage();
  await page.exposeFunction('report', (...args) => listener.call(...args));
  const answer = await page.goto(`${url}/orders?size=1`);
  assert.equal(answer.status(), 200);
  return page;
}

async function eventSource(browser, base) {
  const open = async (url, on) => {
    const origin = new URL(url).origin;
    const tab = await page(browser, origin, { call: (...event) => on.event(...event) });
    await tab.evaluate(
      ([path, types]) => {
        window.source = new EventSource(path);
        // Calls from the page can change their order, so each call waits for the
        // one before.
        let last = Promise.resolve();
        for (const type of types) {
          window.source.addEventListener(type, ({ lastEventId, data }) => {
            last = last.then(() => window.report(type, lastEventId, data));
          });
        }
      },
      [new URL(url).pathname, ['message', 'stream-open', 'heartbeat', 'gap', 'stream-close', ...TYPES]],
    );
    return async () => {
      await tab.evaluate(() => window.source.close());
      await tab.context().close();
    };
  };
  return follow(base, { open, resumed: byHeader });
}

async function webSocket(browser, base) {
  const orders = new Orders(base);
  const cut = await Cut.before(base);
  const expected = [];
  const seen = [];
  const closed = [];
  let opened = 0;
  const listener = {
    call(what, value) {
      if (what === 'closed') closed.push(value);
      else if (what === 'event') seen.push(value);
      else if (what === 'stream-open') opened += 1;
      else throw new Error(`${what}: ${JSON.stringify(value)}`);
    },
  };
  const tab = await page(browser, cut.url, listener);
  await tab.evaluate((from) => {
    let last = Promise.resolve();
    const report = (...args) => (last = last.then(() => window.report(...args)));
    const connect = () => {
      const socket = new WebSocket(`ws://${location.host}/orders/ws?from=${from}`, ['streamgate.v1']);
      window.socket = socket;
      socket.onmessage = ({ data }) => {
        const message = JSON.parse(data);
        if (message.type === 'event') {
          from = message.id;
          report('event', message.id);
        } else report(message.data.type, message);
      };
      socket.onclose = ({ code }) => {
        report('closed', code);
        if (code !== 1000) setTimeout(connect, 50);
      };
    };
    connect();
  }, await orders.head());
  const cuts = [0, 50, 300, 800];
  for (const [n, bytes] of cuts.entries()) {
    await until(() => opened === n + 1, () => `stream-open ${n + 1}`);
    cut.afterBytes('/orders/ws', bytes);
    expected.push(...(await orders.publish(7)));
    await until(() => closed.length === n + 1, () => 'the cut');
    await until(() => agree(seen, expected), () => `${expected.length} events, ${seen.length} received`);
  }
  assert.deepEqual(closed, cuts.map(() => 1006));
  await until(() => opened === cuts.length + 1, () => 'the last stream-open');
  await tab.evaluate(() => window.socket.close(1000));
  await until(() => closed.at(-1) === 1000, () => 'a clean close');
  assert.equal(cut.to('/orders/ws').at(-1).headers.origin, cut.url);
  await tab.context().close();
  cut.close();
  return `WebSocket ${expected.length} over ${cuts.length}`;
}

await main(async (base) => {
  const browser = await chromium.launch({ executablePath: BROWSER, args: QUIET });
  try {
    const sse = await eventSource(browser, base);
    const ws = await webSocket(browser, base);
    return `chromium ${browser.version()}  EventSource resumed with Last-Event-ID header, ${sse}; ${ws}`;
  } finally {
    await browser.close();
  }
});
