// @fluent-org/logger, which waits for an answer to everything that it sends.
//
//     node forward.js PORT MODE RECORDS [SHARED_KEY]
"use strict";

const { FluentClient, EventTime } = require("@fluent-org/logger");

async function main() {
  const [port, eventMode, records, sharedKey] = process.argv.slice(2);
  const client = new FluentClient("app", {
    eventMode,
    socket: { host: "127.0.0.1", port: Number(port), disableReconnect: true },
    ack: { ackTimeout: 30000 },
    ...(sharedKey ? { security: { clientHostname: "producer", sharedKey } } : {}),
  });
  // Without reconnecting it does not connect by itself, either.
  client.connect();
  const failed = new Promise((_, reject) => client.socketOn("error", reject));
  const sent = [];
  for (let number = 0; number < Number(records); number += 1) {
    const record = { number, nested: { list: [1.5, null, true, "ü"] }, bytes: Buffer.from([0x61, 0xff]) };
    sent.push(client.emit(eventMode, record, new EventTime(1700000000, number)));
  }
  await Promise.race([Promise.all(sent), failed]);
  await client.disconnect();
  console.log("answered");
}

// A client that was refused has nothing more to wait for, and Node would end as if all were well.
process.exitCode = 3;
main().then(
  () => process.exit(0),
  (error) => {
    console.error(String(error));
    process.exit(3);
  },
);
