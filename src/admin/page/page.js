"use strict";
// Asks the daemon for its figures and shows them. Whatever comes from outside (names, codes,
// messages) goes into the page as text and never as markup.
(() => {
  const POLL_MS = 2000;
  const TIMEOUT_MS = 5000;
  const SHOWN_SECONDS = 600;
  // The page is served at the root only, so a path without its slash is a proxy's prefix.
  const BASE = location.origin + location.pathname.replace(/\/*$/, "/");

  const id = (name) => document.getElementById(name);
  const all = (selector, within = document) => within.querySelectorAll(selector);
  const isKnown = (value) => value !== null && value !== undefined;

  /** An element with its attributes and what is in it: elements, or text. */
  function make(name, attributes = {}, ...inside) {
    const element = document.createElement(name);
    for (const [key, value] of Object.entries(attributes)) element.setAttribute(key, value);
    element.append(...inside);
    return element;
  }

  // == What numbers look like

  const exactly = new Intl.NumberFormat("en", { maximumFractionDigits: 6 });
  const clock = new Intl.DateTimeFormat("en", { hour: "2-digit", minute: "2-digit", hourCycle: "h23" });
  const clockSeconds = new Intl.DateTimeFormat("en", { timeStyle: "medium", hourCycle: "h23" });

  /** Three digits that matter; whole numbers stay whole. */
  function digits(number) {
    if (Number.isInteger(number)) return String(number);
    if (number < 0.01) return "< 0.01";
    return number.toFixed(number >= 99.95 ? 0 : number >= 9.995 ? 1 : 2);
  }

  function scaled(number, step, units) {
    let unit = 0;
    while (number >= step && unit < units.length - 1) {
      number /= step;
      unit += 1;
    }
    const shown = unit > 0 ? number.toFixed(number >= 99.95 ? 0 : number >= 9.995 ? 1 : 2) : digits(number);
    return units[unit] ? `${shown} ${units[unit]}` : shown;
  }

  const bytes = (number) => scaled(number, 1024, ["B", "KiB", "MiB", "GiB", "TiB", "PiB"]);
  const count = (number) =>
    Number.isInteger(number) && number < 10000 ? exactly.format(number) : scaled(number, 1000, ["", "k", "M", "G", "T"]);

  function duration(seconds) {
    const whole = Math.floor(seconds);
    const parts = (large, name, small, rest) => (small ? `${large} ${name} ${small} ${rest}` : `${large} ${name}`);
    if (seconds < 1) return `${Math.round(seconds * 1000)} ms`;
    if (seconds < 60) return `${digits(Math.floor(seconds * 10) / 10)} s`;
    if (whole < 3600) return parts(Math.floor(whole / 60), "min", whole % 60, "s");
    if (whole < 86400) return parts(Math.floor(whole / 3600), "h", Math.floor((whole % 3600) / 60), "min");
    return parts(Math.floor(whole / 86400), "d", Math.floor((whole % 86400) / 3600), "h");
  }

  const percent = (share) => `${share >= 0.1 && share < 0.99995 ? (share * 100).toFixed(1) : digits(share * 100)} %`;
  const sentence = (text) => (text ? `${text[0].toUpperCase()}${text.slice(1)}.` : "");

  /** How a value is shown, and what its title says exactly. */
  const SHAPES = {
    text: (value) => [String(value)],
    sentence: (value) => [sentence(String(value))],
    word: (value) => [value ? "yes" : "no"],
    flag: (value) => [value ? "✓ yes" : "✕ no"],
    list: (value) => [value.length ? value.join(", ") : "none"],
    count: (value) => [count(value), exactly.format(value)],
    rate: (value) => [count(value), `${exactly.format(value)} a second`],
    per_second: (value) => [`${count(value)}/s`, `${exactly.format(value)} a second`],
    bytes: (value) => [bytes(value), `${exactly.format(value)} bytes`],
    byte_rate: (value) => [`${bytes(value)}/s`, `${exactly.format(value)} bytes a second`],
    ms: (value) => [duration(value / 1000), `${exactly.format(value)} ms`],
    age: (value) => [duration(value / 1000), `${exactly.format(value)} ms`],
    ago: (value) => [`${duration(value / 1000)} ago`, `${exactly.format(value)} ms ago`],
    seconds: (value) => [value === 0 ? "0 s" : duration(value), `${exactly.format(value)} s`],
    below: (value) => [`< ${duration(value)}`, `below ${exactly.format(value)} s`],
    share: (value) => [percent(value), exactly.format(value)],
    factor: (value) => [`${digits(value)} ×`, exactly.format(value)],
    at: (value) => [clock.format(value * 1000), new Date(value * 1000).toISOString()],
  };

  /** Puts `value` into `element`; what is not known is said to be unknown and is no zero. */
  function show(element, value, unknown = "unknown") {
    const known = isKnown(value);
    const [text, exact] = known ? SHAPES[element.dataset.as](value) : [unknown];
    element.dataset.value = JSON.stringify(known ? value : null);
    element.classList.toggle("unknown", text === "unknown");
    if (element.textContent !== text) element.textContent = text;
    if (exact) element.title = exact;
    else element.removeAttribute("title");
  }

  /** The value at a JSON pointer (RFC 6901). */
  function at(value, pointer) {
    for (const part of pointer.split("/").slice(1)) {
      value = value?.[part.replaceAll("~1", "/").replaceAll("~0", "~")];
    }
    return value;
  }

  const below = (pointer, key) => `${pointer}/${String(key).replaceAll("~", "~0").replaceAll("/", "~1")}`;

  // == The figures

  const STATIONS = { producer: "the producers", daemon: "the daemon", firehose: "Firehose", destination: "the destination" };
  const HEADLINES = {
    ok: () => "Healthy",
    idle: () => "Idle",
    warning: (place) => `Held up at ${place}`,
    problem: (place) => `Stuck at ${place}`,
  };
  const TAGS = { idle: "idle", warning: "held up here", problem: "stuck here" };

  const words = (key) => key.replaceAll("_", " ");
  const total = (counts, unit) =>
    isKnown(counts) ? Object.values(counts).reduce((sum, each) => sum + each[unit], 0) : undefined;
  const sum = (numbers) => (numbers.every(isKnown) ? numbers.reduce((one, other) => one + other, 0) : undefined);

  /** What follows from the figures; the test computes the same. */
  function derive(status) {
    const { ledger, stream } = status;
    const side = (columns, unit) => columns.map((column) => ledger?.[column]?.[unit]);
    const taken = (unit) => sum(side(["received", "recovered"], unit));
    const accounted = (unit) =>
      sum([...side(["delivered", "dead_lettered", "held"], unit), total(ledger?.dropped, unit)]);
    const delivered = ledger?.delivered?.bytes;
    const { input_bytes: whole, output_bytes: made } = stream?.compression ?? {};
    const each = (status.streams ?? []).flatMap((one, index) =>
      Object.entries(deriveOf(one)).map(([name, value]) => [`/streams/${index}>${name}`, value]),
    );
    return {
      ...deriveOf(stream),
      ...Object.fromEntries(each),
      ratio: made > 0 ? whole / made : undefined,
      dropped: total(ledger?.dropped, "records"),
      rejected: total(ledger?.rejected, "records"),
      taken_records: taken("records"),
      taken_bytes: taken("bytes"),
      accounted_records: accounted("records"),
      accounted_bytes: accounted("bytes"),
      factor: delivered > 0 ? stream?.billed_bytes / delivered : undefined,
    };
  }

  /** What follows from the figures of one stream, or of all together. */
  function deriveOf(stream) {
    if (!stream) return {};
    return {
      retried: sum(Object.values(stream.retried)),
      throttled: sum(Object.values(stream.requests).map((each) => each.throttled ?? 0)),
      saving: stream.unpacked_billed_bytes > 0 ? 1 - stream.billed_bytes / stream.unpacked_billed_bytes : undefined,
    };
  }

  const value = (pointer, shape, element = "span") => make(element, { "data-path": pointer, "data-as": shape });
  const cell = (pointer, shape) => value(pointer, shape, "td");
  const counts = (pointer) => [cell(`${pointer}/records`, "count"), cell(`${pointer}/bytes`, "bytes")];
  const row = (title, ...cells) => make("tr", {}, make("th", { scope: "row" }, title), ...cells);
  const nothing = (text) => make("tr", {}, make("td", { class: "note", colspan: 3 }, text));

  /** What the table of streams has of each: title, shape, and its place; behind `>`, what is derived. */
  const OF_STREAM = [
    ["Held", "count", "/ledger/held/records"],
    ["Oldest", "age", "/oldest_record_age_ms"],
    ["Delivered", "count", "/ledger/delivered/records"],
    ["Sent again", "count", ">retried"],
    ["Throttled requests", "count", ">throttled"],
    ["Packed", "word", "/packing/packed"],
    ["Billed", "bytes", "/billed_bytes"],
    ["Saved", "share", ">saving"],
    ["Spool", "bytes", "/spool/bytes"],
  ];

  /** The lists of which only the status says how long they are. Made anew when their keys change. */
  const LISTS = {
    reasons: (status, pointer, { title }) =>
      Object.keys(at(status, pointer) ?? {}).map((key) => {
        const made = row(title + words(key), ...counts(below(pointer, key)));
        made.className = "loss";
        return made;
      }),
    requests: (status, pointer) => {
      const calls = Object.entries(at(status, pointer) ?? {});
      const rows = calls.flatMap(([call, outcomes]) =>
        Object.keys(outcomes).map((outcome) => row(`${call}, ${outcome}`, cell(below(below(pointer, call), outcome), "count"))),
      );
      return rows.length ? rows : [nothing("None has ended")];
    },
    counts: (status, pointer, { none }) => {
      const codes = Object.entries(at(status, pointer) ?? {}).sort((one, other) => other[1] - one[1]);
      return codes.length ? codes.map(([code]) => row(code, cell(below(pointer, code), "count"))) : [nothing(none)];
    },
    listeners: (status, pointer) => {
      const listeners = Object.keys(at(status, pointer) ?? []);
      const text = (key, part) => value(`${below(pointer, key)}/${part}`, "text");
      const rows = listeners.map((key) => row(text(key, "name"), make("td", { class: "long" }, text(key, "address"))));
      return rows.length ? rows : [nothing("None")];
    },
    streams: (status, pointer) =>
      (at(status, pointer) ?? []).flatMap(({ status: state, trouble }, index) => {
        const place = below(pointer, index);
        const name = row(value(`${place}/delivery_stream_name`, "text"));
        if (state) name.firstChild.append(" ", value(`${place}/status`, "text", "small"));
        for (const [title, shape, part] of OF_STREAM) {
          const source = part[0] === "/" ? "data-path" : "data-derived";
          name.append(make("td", { [source]: place + part, "data-as": shape, "data-title": title }));
        }
        if (!trouble) return [name];
        const why = (part, shape) => value(`${place}/trouble/${part}`, shape);
        const level = trouble.permanent ? "problem" : "warning";
        const cell = make("td", { class: "long", colspan: OF_STREAM.length + 1, "data-level": level }, why("error_code", "text"), " for ", why("since_ms", "ms"), ": ", why("message", "text"));
        return [name, make("tr", { class: "because" }, cell)];
      }),
    problems: (status, pointer) =>
      Object.keys(at(status, pointer) ?? {}).map((action) =>
        make("li", {}, `${action}: `, value(below(pointer, action), "text")),
      ),
  };

  /** Completes the rows of tables whose cells follow from their first. */
  function prepareRows() {
    for (const made of all("[data-count]")) made.append(...counts(made.dataset.count));
    id("streams-head").append(...OF_STREAM.map(([title]) => make("th", { scope: "col" }, title)));
    for (const made of all("[data-reading]")) {
      const reading = `/monitor/readings/${made.dataset.reading}`;
      made.append(cell(`${reading}/value`, made.dataset.shape), cell(`${reading}/at`, "at"));
    }
    for (const made of all("[data-quota]")) {
      const use = `/monitor/quota_use/${made.dataset.quota}`;
      const limit = `/monitor/readings/${made.dataset.quota}_per_second_limit`;
      const since = value(`${limit}/at`, "at");
      since.className = "heard";
      made.firstElementChild.append(make("span", { class: "bar", "data-share": use, "aria-hidden": "true" }));
      made.append(cell(use, "share"), make("td", {}, "of ", value(`${limit}/value`, made.dataset.shape), since));
    }
  }

  function showLists(status) {
    for (const [kind, rows] of Object.entries(LISTS)) {
      for (const list of all(`[data-${kind}]`)) {
        const made = rows(status, list.dataset[kind], list.dataset);
        const keys = made.map((element) => element.outerHTML).join("\n");
        if (list.keys !== keys) list.replaceChildren(...made);
        list.keys = keys;
      }
    }
  }

  /** What stands where a value is null for another reason than that it is unknown. */
  function instead(status, pointer) {
    const [, whose, last] = pointer.match(/^(.*)\/(.*)$/);
    const held = at(status, `${whose === "/buffer" ? "" : whose}/ledger/held/records`);
    if (last === "oldest_record_age_ms" && held === 0) return "none";
    if (whose.endsWith("/packing") && status.stream) {
      return whose === "/stream/packing" && status.streams?.length > 1 ? "as the stream is" : "not decided yet";
    }
    if (pointer.startsWith("/monitor/") && pointer.endsWith("_ago") && status.monitor) return "not yet";
    if (pointer === "/monitor/encryption" && status.monitor?.status) return "none";
    if (last === "at") return "";
    if (/^\/streams.*spool$/.test(whose)) return "none";
    return "unknown";
  }

  function showFigures(status) {
    showLists(status);
    for (const element of all("[data-path]")) {
      const pointer = element.dataset.path;
      if (element.dataset.as === "items") {
        element.dataset.value = JSON.stringify(at(status, pointer) ?? null);
        continue;
      }
      show(element, at(status, pointer), instead(status, pointer));
      // Before there is anything to compare with the daemon gives zeros, which are no rates.
      const isRate = pointer.startsWith("/rates/") || pointer === "/process/cpu";
      if (isRate && !status.rates?.window_ms) {
        element.textContent = "unknown";
        element.classList.add("unknown");
      }
    }
    const derived = derive(status);
    for (const element of all("[data-derived]")) {
      show(element, derived[element.dataset.derived]);
    }
    for (const element of all(".loss")) {
      const values = all("[data-value]", element);
      element.classList.toggle("some", [...values].some((value) => Number(value.dataset.value) > 0));
      element.classList.toggle("none", [...values].every((value) => value.dataset.value === "0"));
    }
    for (const bar of all("[data-share]")) {
      const part = at(status, bar.dataset.share);
      const whole = bar.dataset.of ? at(status, bar.dataset.of) : 1;
      const share = isKnown(part) && whole > 0 ? Math.min(part / whole, 1) : 0;
      bar.style.setProperty("--share", share);
      bar.classList.toggle("full", share >= 0.9);
    }
    showBalance(derived);
    showStreams(status);
    id("compressed").hidden = !status.stream?.compression;
    showMonitorNote(status);
    const trouble = status.stream?.trouble;
    id("trouble").hidden = !trouble;
    id("trouble").dataset.level = trouble?.permanent ? "problem" : "warning";
  }

  /** How many streams there are, where there are several. */
  function showStreams(status) {
    const several = status.streams?.length > 1;
    id("streams").hidden = !several;
    id("more").textContent = several ? ` and ${status.streams.length - 1} more` : "";
  }

  function showBalance({ taken_records: taken, accounted_records: accounted }) {
    const balance = id("balance");
    if (!isKnown(taken) || !isKnown(accounted)) {
      balance.textContent = "";
      return;
    }
    const equal = taken === accounted;
    const sides = `${exactly.format(taken)} taken ${equal ? "=" : "≠"} ${exactly.format(accounted)} accounted for`;
    balance.textContent = equal ? `✓ It adds up: ${sides}` : `✕ It does not add up: ${sides}`;
    balance.dataset.equal = equal;
  }

  function showMonitorNote({ monitor, streams, delivery_stream_name: name }) {
    const note = id("monitor-note");
    if (!monitor) note.textContent = "Monitoring is switched off: monitor.interval is 0s.";
    else if (!isKnown(monitor.described_ms_ago) && !isKnown(monitor.polled_ms_ago)) note.textContent = "Nothing is known of the stream yet.";
    else note.textContent = streams?.length > 1 ? `Of ${name} alone.` : "";
    note.hidden = !note.textContent;
  }

  // == The verdict

  let announced = "";

  function announce(key, text) {
    if (announced === key) return;
    announced = key;
    id("announcement").textContent = text;
  }

  function mark(place, level) {
    for (const station of all(".station")) {
      const here = station.dataset.station === place;
      if (here) station.dataset.level = level;
      else delete station.dataset.level;
      station.querySelector(".tag").textContent = here ? (TAGS[level] ?? "") : "";
    }
    id("way").dataset.at = place;
    id("way").dataset.level = level;
  }

  function showVerdict(status) {
    const { at: place = "nowhere", level = "unknown", why = "" } = status.stuck ?? {};
    const stopping = status.state === "draining";
    const headline = stopping ? "Stopping" : (HEADLINES[level]?.(STATIONS[place] ?? place) ?? "Unknown");
    id("headline").textContent = headline;
    id("verdict").dataset.level = stopping && level === "ok" ? "warning" : level;
    mark(place, level);
    showReasons(status);
    document.title = `${headline} · ${status.delivery_stream_name}${id("more").textContent} · hydrant`;
    announce(`${place} ${level} ${status.state}`, `${headline}. ${sentence(why)}`);
  }

  /** Why it is not ready, except where that is what the sentence on the way says already. */
  function showReasons({ reasons = [], stuck, stream }) {
    const list = id("reasons");
    const { error_code: code, message } = stream?.trouble ?? {};
    const said = [stuck?.why, `${code}: ${message}`];
    const news = reasons.filter((reason) => !said.includes(reason));
    list.replaceChildren(...news.map((reason) => make("li", {}, sentence(`not ready: ${reason}`))));
  }

  // == The plots

  // Rows of the history with their time in seconds; `first` opens what is not joined to the rows
  // before it.
  let rows = [];
  let columns = [];
  let mostInFlight;

  const now = () => Date.now() / 1000;

  /** Takes the daemon's history; what was known before it stays, as another daemon's. */
  function takeHistory({ columns: names, rows: values }) {
    columns = names;
    const age = columns.indexOf("age_ms");
    const taken = values.map((value) => ({ time: now() - value[age] / 1000, value }));
    if (taken.length) {
      taken[0].first = true;
      rows = rows.filter((earlier) => earlier.time < taken[0].time - 1);
    }
    rows.push(...taken);
    forget();
  }

  /** Takes the row of one answer, unless the last one is so young that a rate would be chance. */
  function takeSample(value) {
    const last = rows.at(-1);
    if (value && (!last || now() - last.time >= POLL_MS / 2000)) rows.push({ time: now(), value });
    forget();
  }

  function forget() {
    const oldest = now() - SHOWN_SECONDS - 10;
    rows = rows.filter(({ time }) => time >= oldest);
  }

  /** The growth per second of a column from the row before; none where it was not counted on. */
  function rate(column) {
    return (current, previous) => {
      if (!previous || current.first) return null;
      const grown = current.value[column] - previous.value[column];
      return grown >= 0 ? grown / (current.time - previous.time) : null;
    };
  }

  const gauge = (column) => (current) => current.value[column] ?? null;

  const BYTES = { least: 1024, incrs: Array.from({ length: 50 }, (_, power) => 2 ** power), shape: bytes };
  const COUNTS = { least: 10, shape: count };
  const AGES = { least: 1000, shape: (ms) => (ms === 0 ? "0 s" : duration(ms / 1000)), incrs: [200, 500, 1000, 2000, 5000, 10000, 20000, 30000, 60000, 120000, 300000, 600000, 1800000, 3600000, 7200000, 14400000, 43200000, 86400000] };
  const BYTE_RATES = { ...BYTES, shape: (number) => `${bytes(number)}/s` };
  const RATES = { ...COUNTS, shape: (number) => `${count(number)}/s` };
  const WHOLES = { ...COUNTS, size: 36, incrs: [1, 2, 5, 10, 20, 50, 100, 200, 500, 1000, 2000, 5000, 10000] };

  // The second series of a plot is dashed, and where its unit is another it has the right axis.
  const PLOTS = [
    { title: "Bytes per second", left: BYTE_RATES, series: [["in", "received_bytes", rate], ["out", "delivered_bytes", rate]] },
    { title: "Records per second", left: RATES, series: [["in", "received_records", rate], ["out", "delivered_records", rate]] },
    { title: "Held", left: BYTES, right: AGES, series: [["bytes", "held_bytes", gauge], ["oldest", "oldest_record_age_ms", gauge]] },
    { title: "Requests and retries", left: RATES, right: RATES, series: [["requests", "requests", rate], ["records sent again", "retried_records", rate]] },
    { title: "In flight", left: { ...WHOLES, limit: () => mostInFlight }, right: WHOLES, series: [["requests", "in_flight_requests", gauge], ["connections", "connections", gauge]] },
    { title: "Lost, and producers held back", left: RATES, right: BYTES, series: [["records lost", "lost_records", rate], ["memory waited for", "wanted_bytes", gauge]] },
  ];

  const colour = (name) => getComputedStyle(document.documentElement).getPropertyValue(name).trim();

  /** The columns of a plot, as the library takes them; a break is a row without values. */
  function series(plot) {
    const value = plot.series.map(([, column, kind]) => kind(columns.indexOf(column)));
    const data = [[], ...plot.series.map(() => [])];
    rows.forEach((current, index) => {
      const previous = rows[index - 1];
      if (current.first && previous) {
        data[0].push(current.time - 0.001);
        value.forEach((_, which) => data[which + 1].push(null));
      }
      data[0].push(current.time);
      value.forEach((of, which) => data[which + 1].push(of(current, previous)));
    });
    return data;
  }

  const withoutZeros = (text) => text.replace(/\.(\d*?)0+(?!\d)/, (_, kept) => (kept ? `.${kept}` : ""));

  function axes(plot) {
    const common = { stroke: colour("--muted"), font: "12px system-ui, sans-serif", ticks: { show: false } };
    const grid = { stroke: colour("--line"), width: 1 };
    const vertical = (unit, scale, more) => ({
      ...common, scale, grid, size: unit.size ?? 70, gap: 6, space: 34,
      ...(unit.incrs && { incrs: unit.incrs }),
      values: (_, splits) => splits.map((split) => withoutZeros(unit.shape(split))),
      ...more,
    });
    const list = [
      { ...common, grid: { show: false }, space: 60, size: 26, values: (_, splits) => splits.map((split) => clock.format(split * 1000)), incrs: [60, 120, 300] },
      vertical(plot.left, "left", { side: 3 }),
    ];
    if (plot.right) list.push(vertical(plot.right, "right", { side: 1, grid: { show: false } }));
    return list;
  }

  function scale(unit) {
    return { range: (_, __, most) => [0, Math.max((most ?? 0) * 1.08, unit.least, (unit.limit?.() ?? 0) * 1.08)] };
  }

  function draw(plot) {
    const options = {
      width: Math.max(plot.canvas.clientWidth, 100),
      height: 190,
      padding: [10, plot.right ? 0 : 20, 0, 0],
      legend: { show: false },
      cursor: { sync: { key: "hydrant" }, drag: { x: false, y: false }, points: { size: 6 }, y: false },
      scales: {
        x: { time: true, range: () => [now() - SHOWN_SECONDS, now()] },
        left: scale(plot.left),
        ...(plot.right && { right: scale(plot.right) }),
      },
      axes: axes(plot),
      series: [{}, ...plot.series.map((_, index) => line(plot, index))],
      hooks: { setCursor: [() => showLegend(plot)] },
    };
    plot.drawn?.destroy();
    plot.drawn = new uPlot(options, series(plot), plot.canvas);
    showLegend(plot);
  }

  function line(plot, index) {
    const second = index === 1;
    return {
      scale: second && plot.right ? "right" : "left",
      stroke: colour(second ? "--second" : "--first"),
      width: 1.5,
      points: { show: false },
      ...(second ? { dash: [5, 3] } : { fill: colour("--first-fill") }),
    };
  }

  /** The values under the cursor, else the latest, and for who can't see the plot a sentence. */
  function showLegend(plot) {
    const { drawn, values } = plot;
    if (!drawn) return;
    const data = drawn.data;
    const spoken = plot.series.map(([label], which) => {
      const shape = (which === 1 && plot.right ? plot.right : plot.left).shape;
      const known = data[which + 1].filter(isKnown);
      const value = data[which + 1][drawn.cursor.idx ?? data[0].length - 1];
      values[which].textContent = isKnown(value) ? shape(value) : "unknown";
      values[which].dataset.value = JSON.stringify(value ?? null);
      return known.length ? `${label} ${shape(known.at(-1))}, at most ${shape(Math.max(...known))}` : `${label} unknown`;
    });
    plot.canvas.setAttribute("aria-label", `${plot.title} over the last ten minutes: ${spoken.join("; ")}`);
  }

  function preparePlots() {
    for (const plot of PLOTS) {
      plot.values = plot.series.map(() => make("b", { class: "value" }, "unknown"));
      const legend = plot.series.map(([label], which) =>
        make("span", { class: "key" }, make("i", { class: which ? "swatch second" : "swatch", "aria-hidden": "true" }), `${label} `, plot.values[which]),
      );
      plot.canvas = make("div", { class: "canvas", role: "img", "aria-label": plot.title });
      id("plots").append(make("figure", {}, make("figcaption", {}, make("h3", {}, plot.title), ...legend), plot.canvas));
      new ResizeObserver(() => plot.drawn?.setSize({ width: plot.canvas.clientWidth, height: 190 })).observe(plot.canvas);
    }
    matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => PLOTS.forEach(draw));
  }

  function showPlots() {
    for (const plot of PLOTS) {
      if (plot.drawn) plot.drawn.setData(series(plot));
      else draw(plot);
      showLegend(plot);
    }
  }

  // == Asking

  let timer;
  let asking = false;
  let joined = false; // Whether the rows go on from the last answer.
  let uptime = 0;
  let answers = 0;
  let answeredAt;

  async function get(path) {
    const response = await fetch(BASE + path, { cache: "no-store", signal: AbortSignal.timeout(TIMEOUT_MS) });
    if (!response.ok) throw new Error(`HTTP status ${response.status}`);
    return response.json();
  }

  /** One question. The history is asked for whenever rows may be missing. */
  async function ask() {
    asking = true;
    clearTimeout(timer);
    try {
      const status = await get("status");
      if (status.uptime_seconds < uptime) joined = false;
      const history = joined ? undefined : await get("history");
      uptime = status.uptime_seconds;
      answeredAt = Date.now();
      try {
        answer(status, history);
      } catch (error) {
        // The page's own fault is not the daemon's silence.
        console.error(error);
      }
    } catch (error) {
      lose(error);
    }
    asking = false;
    if (!document.hidden) timer = setTimeout(ask, POLL_MS);
  }

  function answer(status, history) {
    mostInFlight = status.stream?.max_in_flight_requests;
    if (history) takeHistory(history);
    else takeSample(status.sample);
    joined = true;
    answers += 1;
    document.body.dataset.reachable = "yes";
    id("pulse-text").textContent = `live, ${clockSeconds.format(answeredAt)}`;
    showFigures(status);
    showVerdict(status);
    showPlots();
    document.documentElement.dataset.answers = answers;
  }

  /** Says that nothing below is of this moment. */
  function lose(error) {
    joined = false;
    const since = answeredAt ? `no answer since ${clockSeconds.format(answeredAt)}; the figures are from then` : "no answer yet";
    const headline = "Not reachable";
    document.body.dataset.reachable = "no";
    id("headline").textContent = headline;
    id("verdict").dataset.level = "lost";
    id("pulse-text").textContent = "not reachable, asking again";
    id("why").textContent = sentence(`the daemon is not reachable (${error.message}): ${since}`);
    id("reasons").replaceChildren();
    mark("nowhere", "lost");
    document.title = `${headline} · hydrant`;
    announce(headline, `${headline}. ${sentence(since)}`);
    if (rows.length) showPlots();
  }

  document.addEventListener("visibilitychange", () => {
    if (document.hidden) {
      clearTimeout(timer);
      joined = false;
    } else if (!asking) {
      ask();
    }
  });
  for (const link of all("nav a")) link.href = BASE + link.getAttribute("href");
  prepareRows();
  preparePlots();
  ask();
})();
