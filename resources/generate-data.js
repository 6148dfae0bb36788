#!/usr/bin/env node
/*
 * Sample records for hydrant, as an application would write them: one JSON object a line.
 *
 *   $ node generate-data.js --count 3                                  # to look at
 *   $ node generate-data.js --count 100000 --to unix:/tmp/app-logs.sock
 *
 * Plain Node 18 or later, nothing to install. The same seed, count and size give the same bytes on
 * every machine, so that what arrives in S3 can be compared with what was sent. Whoever reads sets
 * the pace: while hydrant, or the next program of a pipe, does not read, nothing more is made.
 */

'use strict';

const net = require('node:net');
const { once } = require('node:events');
const { setTimeout: sleep } = require('node:timers/promises');

const HELP = `Writes sample records, one JSON object a line.

Usage: node generate-data.js [OPTIONS]

Options:
  --count N     how many records [default: 1000]
  --rate N      records a second; 0 is as fast as they are taken [default: 0]
  --size BYTES  of each record, with the line feed that ends it, 256 to 1024000 [default: 400]
  --seed N      what the records are made from, 0 to 4294967295 [default: 1]
  --to ADDRESS  unix:PATH or tcp:HOST:PORT [default: standard output]
  --help        this text

Examples:
  node generate-data.js --count 3
  node generate-data.js --to unix:/tmp/app-logs.sock --count 100000 --size 1000
  node generate-data.js --to tcp:127.0.0.1:5140 --rate 50 --count 3000
  node generate-data.js --count 5000 --seed 7 | sha256sum

Exit codes: 0 done, 1 the records could not be written, 2 wrong usage.
`;

/** Firehose takes records of up to 1,000 KiB. */
const LARGEST = 1_024_000;
/** The longest that a record gets before it is filled up. */
const SMALLEST = 256;
/** Written at once: enough that a call costs little, little enough that memory does not matter. */
const CHUNK_BYTES = 64 * 1024;
/** Records that fell due within so many milliseconds are written together. */
const TICK = 10;

/** A mistake of whoever called. */
class Usage extends Error {}

/** The reader of standard output has seen enough, as `head` has. */
class ReaderLeft extends Error {}

const OPTIONS = {
  count: { value: 1000, least: 1, most: 2 ** 32 - 1 },
  rate: { value: 0, least: 0, most: 10_000_000 },
  size: { value: 400, least: SMALLEST, most: LARGEST },
  seed: { value: 1, least: 0, most: 2 ** 32 - 1 },
};

/** What the command line asks for; `null` if it is to be explained. */
function parse(words) {
  const options = Object.fromEntries(Object.entries(OPTIONS).map(([name, { value }]) => [name, value]));
  const rest = words.flatMap((word) => word.startsWith('--') && word.includes('=') ? split(word, '=') : [word]);
  while (rest.length > 0) {
    const word = rest.shift();
    const name = word.replace(/^--/, '');
    if (word === '--help' || word === '-h') {
      return null;
    }
    if (!word.startsWith('--') || !(name in OPTIONS || name === 'to')) {
      throw new Usage(`${word} is no option: those are --${[...Object.keys(OPTIONS), 'to', 'help'].join(', --')}`);
    }
    if (rest.length === 0) {
      throw new Usage(`${word} needs a value`);
    }
    options[name] = name === 'to' ? address(rest.shift()) : number(word, rest.shift(), OPTIONS[name]);
  }
  return options;
}

function number(option, text, { least, most }) {
  const value = Number(text);
  if (!/^\d+$/.test(text) || value < least || value > most) {
    throw new Usage(`${option} is ${text}: it must be a whole number, ${least} to ${most}`);
  }
  return value;
}

/** Where to connect to, as `net.connect` takes it, with the `name` that people know it by. */
function address(name) {
  const [kind, rest] = split(name, ':');
  if (kind === 'unix' && rest) {
    return { name, path: rest };
  }
  const [, host, port] = /^(?:\[([^\]]+)\]|([^:]+)):(\d+)$/.exec(rest ?? '')?.filter((part) => part !== undefined) ?? [];
  if (kind === 'tcp' && Number(port) >= 1 && Number(port) <= 65535) {
    return { name, host, port: Number(port) };
  }
  throw new Usage(`--to is ${name}: it must be unix:PATH or tcp:HOST:PORT`);
}

/** `text` in two parts, before and after the first `separator`. */
function split(text, separator) {
  const at = text.indexOf(separator);
  return at < 0 ? [text] : [text.slice(0, at), text.slice(at + 1)];
}

/**
 * Numbers below 2^32 that look random and follow from `seed` alone: Mulberry32, in the public
 * domain. `Math.random` takes no seed.
 */
function generator(seed) {
  let state = seed;
  return () => {
    state = (state + 0x6d2b79f5) >>> 0;
    let mixed = Math.imul(state ^ (state >>> 15), state | 1);
    mixed ^= mixed + Math.imul(mixed ^ (mixed >>> 7), mixed | 61);
    return (mixed ^ (mixed >>> 14)) >>> 0;
  };
}

const SERVICES = ['checkout', 'search', 'accounts', 'inventory', 'gateway'];
const METHODS = ['GET', 'GET', 'GET', 'POST', 'PUT', 'DELETE'];
const PATHS = ['/v1/orders', '/v1/items', '/v1/products', '/v1/users/me', '/healthz'];
/** Level, status and message of what happens, the usual ones more often. */
const OUTCOMES = [
  ...Array(90).fill(['info', 200, 'request served']),
  ...Array(4).fill(['info', 304, 'not modified']),
  ...Array(3).fill(['warn', 404, 'no such resource']),
  ...Array(2).fill(['warn', 429, 'client asked too often']),
  ['error', 503, 'upstream timed out'],
];
const WORDS = 'the cart was priced again after an item changed while its session was still open and ';

/** Records that follow from `seed` and `size` alone, one after the other. */
class Records {
  constructor(seed, size) {
    this.random = generator(seed);
    this.size = size;
    this.sequence = 0;
    // Time is made up like the rest: a moment of the year 2026, and a little more each record.
    this.time = Date.UTC(2026, 0, 1) + (this.random() % (365 * 86_400)) * 1000;
  }

  /** One of `list`. */
  one(list) {
    return list[this.random() % list.length];
  }

  /** Eight hexadecimal digits. */
  hex() {
    return this.random().toString(16).padStart(8, '0');
  }

  /** The next record: ASCII, so that its length is its bytes, and with its line feed of that size. */
  next() {
    const { random } = this;
    const [level, status, message] = this.one(OUTCOMES);
    this.time += random() % 40;
    const record = JSON.stringify({
      timestamp: new Date(this.time).toISOString(),
      sequence: this.sequence++,
      level,
      service: this.one(SERVICES),
      message,
      method: this.one(METHODS),
      path: this.one(PATHS),
      status,
      // Mostly quick, with a long tail: 1 to 513 ms.
      latency_ms: ((1000 << (random() % 10)) + (random() % 1000)) / 1000,
      request_id: this.hex() + this.hex(),
      detail: '',
    });
    // The last two characters, `"}`, close what is filled up.
    const missing = this.size - record.length - 1;
    const start = random() % WORDS.length;
    const filling = WORDS.repeat(Math.ceil((start + missing) / WORDS.length)).slice(start, start + missing);
    return `${record.slice(0, -2)}${filling}"}\n`;
  }
}

/** Where the records go. A write returns when there is room for the next. */
class Output {
  static async open(to) {
    if (to === undefined) {
      return new Output('standard output', process.stdout);
    }
    // Half open: a listener may close its own half first, and still read.
    const socket = net.connect({ ...to, allowHalfOpen: true });
    const output = new Output(to.name, socket);
    // Acknowledgements, if the listener sends them: unread they would hold it up.
    socket.resume();
    await output.unlessBroken(once(socket, 'connect'));
    return output;
  }

  constructor(name, stream) {
    this.name = name;
    this.stream = stream;
    this.broken = new Promise((_, reject) => {
      // More than once: the errors of what was written before the first was known say nothing new.
      stream.on('error', reject);
      stream.once('close', () => reject(Object.assign(new Error('closed'), { code: 'EPIPE' })));
    });
    // Whoever waits gets the error; until then, nobody does.
    this.broken.catch(() => {});
  }

  async write(text) {
    if (!this.stream.write(text, 'latin1')) {
      await this.unlessBroken(once(this.stream, 'drain'));
    }
  }

  /** Ends the records, and returns when whoever reads has read all and closed. */
  async end() {
    if (this.stream === process.stdout) {
      await this.unlessBroken(new Promise((done) => this.stream.write('', done)));
      return;
    }
    // Before the listener of `broken`, for which this close would be a fault.
    const closed = new Promise((done) => this.stream.prependOnceListener('close', done));
    this.stream.end();
    await this.unlessBroken(closed);
  }

  /** What `event` gives, unless the stream breaks before. */
  async unlessBroken(event) {
    event.catch(() => {});
    try {
      return await Promise.race([event, this.broken]);
    } catch (error) {
      if (error.code === 'EPIPE' && this.stream === process.stdout) {
        throw new ReaderLeft();
      }
      throw new Error(`${this.name}: ${REASONS[error.code] ?? error.message}`);
    }
  }
}

const REASONS = {
  ENOENT: 'no such socket: start hydrant with a listener there first',
  ECONNREFUSED: 'nobody listens there: start hydrant with a listener there first',
  EACCES: "no permission to connect: see the listener's `mode`",
  ENOTFOUND: 'no such host',
  EPIPE: 'the connection was closed by the other side',
  ECONNRESET: 'the connection was reset by the other side',
};

/** Writes the records, and counts in `written` those that the output has taken. */
async function write(options, output, written, isStopped) {
  const records = new Records(options.seed, options.size);
  const perChunk = Math.max(1, Math.floor(CHUNK_BYTES / options.size));
  const start = performance.now();
  while (written.records < options.count && !isStopped()) {
    let due = options.count;
    if (options.rate > 0) {
      due = Math.min(due, 1 + Math.floor(((performance.now() - start) / 1000) * options.rate));
      if (due <= written.records) {
        const next = start + (written.records / options.rate) * 1000;
        await Promise.race([sleep(Math.min(1000, Math.max(TICK, next - performance.now()))), output.unlessBroken(output.broken)]);
        continue;
      }
    }
    const some = Math.min(perChunk, due - written.records);
    await output.write(Array.from({ length: some }, () => records.next()).join(''));
    written.records += some;
  }
  await output.end();
}

/** Runs the command; its exit code. */
async function main() {
  const options = parse(process.argv.slice(2));
  if (options === null) {
    process.stdout.write(HELP);
    return 0;
  }
  // The first asks for the end after a whole record; a second ends at once.
  let stopped = false;
  for (const signal of ['SIGINT', 'SIGTERM']) {
    process.once(signal, () => (stopped = true));
  }
  const start = performance.now();
  const written = { records: 0 };
  let name = 'standard output';
  const summary = () => {
    const seconds = ((performance.now() - start) / 1000).toFixed(1);
    return `${written.records} of ${options.count} records, ${written.records * options.size} bytes, in ${seconds} s to ${name}`;
  };
  try {
    const output = await Output.open(options.to);
    name = output.name;
    await write(options, output, written, () => stopped);
  } catch (error) {
    if (error instanceof ReaderLeft) {
      process.stderr.write(`wrote ${summary()}, whose reader has left\n`);
      return 0;
    }
    const until = written.records > 0 ? `, after ${written.records} of ${options.count} records` : '';
    process.stderr.write(`generate-data: ${error.message}${until}\n`);
    return 1;
  }
  process.stderr.write(`wrote ${summary()}\n`);
  return 0;
}

main().then(
  (code) => process.exit(code),
  (error) => {
    if (!(error instanceof Usage)) {
      throw error;
    }
    process.stderr.write(`generate-data: ${error.message}; see --help\n`);
    process.exit(2);
  },
);
