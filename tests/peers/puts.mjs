// Puts records through the AWS SDK for JavaScript v3 into a listener of hydrant: puts.mjs STREAM COUNT.
// Endpoint, region and credentials come from the environment, as for any AWS client.

import assert from "node:assert/strict";
import {
  DescribeDeliveryStreamCommand,
  FirehoseClient,
  PutRecordBatchCommand,
  PutRecordCommand,
  ResourceNotFoundException,
} from "@aws-sdk/client-firehose";

const [stream, count] = [process.argv[2], Number(process.argv[3])];
const firehose = new FirehoseClient({ maxAttempts: 1 });
const bytes = (text) => new TextEncoder().encode(text);

const described = await firehose.send(new DescribeDeliveryStreamCommand({ DeliveryStreamName: stream }));
assert.equal(described.DeliveryStreamDescription.DeliveryStreamStatus, "ACTIVE");
await assert.rejects(
  firehose.send(new PutRecordCommand({ DeliveryStreamName: "nowhere", Record: { Data: bytes("x") } })),
  ResourceNotFoundException,
);

const lines = Array.from({ length: count }, (_, number) => bytes(`javascript ${number}\n`));
const single = await firehose.send(
  new PutRecordCommand({ DeliveryStreamName: stream, Record: { Data: lines[0] } }),
);
const ids = new Set([single.RecordId]);
for (let first = 1; first < count; first += 500) {
  const Records = lines.slice(first, first + 500).map((Data) => ({ Data }));
  const answer = await firehose.send(
    new PutRecordBatchCommand({ DeliveryStreamName: stream, Records }),
  );
  assert.equal(answer.FailedPutCount, 0);
  for (const entry of answer.RequestResponses) ids.add(entry.RecordId);
}
assert.equal(ids.size, count);
