// uWebSockets.js under load: each line that is posted goes to every subscriber
// as one message.

"use strict";

const path = require("node:path");

// Loads the addon directly: the package would fall back to another server,
// written in JavaScript, on a machine without an addon.
const { modules } = process.versions;
const addon = `uws_${process.platform}_${process.arch}_${modules}.node`;
const folder = "target/peers/uwebsockets/node_modules/@trufflesuite/uws-js-unofficial/binaries";
const uws = require(path.resolve(folder, addon));

const TOPIC = "ticks";
const NEWLINE = 10;

function publish(app, body) {
    let start = 0;
    while (start < body.length) {
        const at = body.indexOf(NEWLINE, start);
        const end = at < 0 ? body.length : at;
        app.publish(TOPIC, body.subarray(start, end), false);
        start = end + 1;
    }
}

const app = uws.App();

app.ws("/subscribe", {
    compression: uws.DISABLED,
    idleTimeout: 0,
    // No limit, so that a slow subscriber still receives every event.
    maxBackpressure: 0,
    open: (socket) => socket.subscribe(TOPIC),
});

app.post("/publish", (response) => {
    const chunks = [];
    response.onAborted(() => {});
    response.onData((chunk, isLast) => {
        // The chunk is only valid until this callback returns.
        chunks.push(Buffer.from(new Uint8Array(chunk)));
        if (isLast) {
            publish(app, Buffer.concat(chunks));
            response.end();
        }
    });
});

app.listen("127.0.0.1", 0, (socket) => {
    const listen = `127.0.0.1:${uws.us_socket_local_port(socket)}`;
    console.log(JSON.stringify({ message: "serving", listen }));
});
