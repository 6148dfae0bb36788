//! The page at `/` in a real browser: what it shows is what `/status` says.
//!
//! Where no Chromium is installed the tests say `skipped: …` and pass, unless `REQUIRE_PEERS` is
//! set: then they fail.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, missing_docs)]

mod browser;
#[path = "../it/daemon.rs"]
#[allow(
    dead_code,
    unreachable_pub,
    clippy::disallowed_methods,
    reason = "what the integration tests share is more than is used here"
)]
mod daemon;

use std::collections::{BTreeMap, BTreeSet};

use hydrant::local::{FailCode, Faults, Options};
use serde_json::{Value, json};

use browser::{Answer, Page};
use daemon::{Daemon, Sink, lines};

/// Every value on the page: its place in `/status`, what the page took for it, and its text.
const VALUES: &str = "[...document.querySelectorAll('[data-path]')].map((element) => ({
    path: element.dataset.path, value: element.dataset.value, text: element.innerText }))";
/// The texts of the elements of one place in `/status`, by place.
const TEXTS: &str = "Object.fromEntries([...document.querySelectorAll('[data-path], [data-derived]')]
    .map((element) => [element.dataset.path ?? element.dataset.derived, element.textContent]))";
/// What `/status` says only to be plotted, or for machines.
const NOT_SHOWN: [&str; 3] = ["/sample", "/spool", "/stream/quota"];

/// A service and a daemon in front of it.
struct Scene {
    sink: Sink,
    daemon: Daemon,
    address: String,
}

impl Scene {
    async fn start(faults: Faults, settings: &[&str]) -> Self {
        let sink = Sink::start(Options { faults, ..Options::default() }).await;
        let daemon = Daemon::start(&sink.local.url(), settings).await;
        let address = format!("http://{}/", daemon.admin.trim_start_matches("tcp:"));
        Self { sink, daemon, address }
    }

    async fn quiet() -> Self {
        Self::start(Faults::default(), &[]).await
    }
}

/// `/status` with every value known, for tests that forge some of them.
fn known(mut status: Value) -> Value {
    let readings: BTreeMap<String, Value> = status["monitor"]["readings"]
        .as_object()
        .unwrap()
        .keys()
        .map(|key| (key.clone(), json!({ "value": 0.5, "at": 1_700_000_000 })))
        .collect();
    status["monitor"]["readings"] = json!(readings);
    status["rates"]["window_ms"] = json!(10_000);
    status
}

fn set(status: &mut Value, pointer: &str, value: Value) {
    *status.pointer_mut(pointer).unwrap_or_else(|| panic!("no {pointer}")) = value;
}

/// The places of everything in `value` that is no object or list of objects.
fn leaves(value: &Value, place: &str, into: &mut BTreeSet<String>) {
    let escaped = |key: &str| key.replace('~', "~0").replace('/', "~1");
    match value {
        Value::Object(members) => {
            members.iter().for_each(|(key, value)| leaves(value, &format!("{place}/{}", escaped(key)), into));
        }
        Value::Array(items) if items.iter().any(Value::is_object) => {
            items
                .iter()
                .enumerate()
                .for_each(|(index, value)| leaves(value, &format!("{place}/{index}"), into));
        }
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) | Value::Array(_) => {
            into.insert(place.to_owned());
        }
    }
}

/// Whether two values are the same: JavaScript writes 1.0 as 1.
fn same(one: &Value, other: &Value) -> bool {
    match (one.as_f64(), other.as_f64()) {
        (Some(one), Some(other)) => (one - other).abs() <= one.abs() * 1e-12,
        _ => one == other,
    }
}

// R-M18
#[tokio::test]
async fn every_value_on_the_page_is_that_of_the_status_and_none_is_missing() {
    let faults = Faults { fail_records: 0.3, fail_code: FailCode::InternalFailure, ..Faults::default() };
    let settings = ["retry.max_retries=1", "retry.base_delay=1ms", "listen.app.max_record_bytes=1000"];
    let scene = Scene::start(faults, &settings).await;
    let Some(mut page) = Page::open(&scene.address).await else { return };
    scene.daemon.write(&lines(2000, 500)).await;
    scene.daemon.write(&lines(3, 2000)).await;
    let settled = scene.daemon.until_settled(2000).await;
    // The answer that is held may be older.
    let held = page.held().await;
    page.show(held, Answer::Daemons, "null").await;
    let held = page.held().await;
    let status = held.status.clone().unwrap();
    assert_eq!(status["ledger"], settled["ledger"]);
    for place in [
        "/ledger/dropped/no_dead_letter_store/records",
        "/ledger/rejected/too_long/records",
        "/stream/retried/InternalFailure",
    ] {
        assert!(daemon::number(&status, place) > 0, "{place} in {status:#}");
    }

    let values = page.show(held, Answer::Daemons, VALUES).await;
    let mut shown = BTreeSet::new();
    for value in values.as_array().unwrap() {
        let place = value["path"].as_str().unwrap();
        let expected = status.pointer(place).unwrap_or(&Value::Null);
        let have: Value = serde_json::from_str(value["value"].as_str().unwrap()).unwrap();
        assert!(same(&have, expected), "{place} is {expected}, and on the page {have}");
        let text = value["text"].as_str().unwrap();
        assert!(!expected.is_null() || !text.contains('0'), "{place} is not known, and on the page {text:?}");
        assert!(expected.is_null() || text != "unknown", "{place} is {expected}, and on the page unknown");
        shown.insert(place.to_owned());
    }
    let mut places = BTreeSet::new();
    leaves(&status, "", &mut places);
    let covered =
        |place: &str| shown.iter().any(|shown| shown == place || shown.starts_with(&format!("{place}/")));
    let exempt = |place: &str| NOT_SHOWN.iter().any(|exempt| place.starts_with(exempt));
    let missing: Vec<_> = places.iter().filter(|place| !covered(place) && !exempt(place)).collect();
    assert!(missing.is_empty(), "show these on the page, or say in NOT_SHOWN that it need not: {missing:?}");

    let balance = page.evaluate("document.getElementById('balance').textContent").await;
    assert_eq!(balance, "✓ It adds up: 2,000 taken = 2,000 accounted for");
    page.assert_clean(&scene.address);
    scene.sink.local.stop().await.unwrap();
}

// R-A6
#[tokio::test]
async fn numbers_are_shown_in_units_for_people() {
    let scene = Scene::quiet().await;
    let Some(mut page) = Page::open(&scene.address).await else { return };
    let held = page.held().await;
    let mut status = known(held.status.clone().unwrap());
    let cases = [
        ("/ledger/received/records", json!(5550), "5,550"),
        ("/ledger/delivered/records", json!(5549), "5,549"),
        ("/ledger/held/records", json!(1), "1"),
        ("/ledger/delivered/bytes", json!(1024), "1.00 KiB"),
        ("/ledger/held/bytes", json!(5_368_709_120_u64), "5.00 GiB"),
        ("/ledger/dead_lettered/records", json!(1_234_567), "1.23 M"),
        ("/ledger/dropped/shutdown/bytes", json!(0), "0 B"),
        ("/rates/received_bytes_per_second", json!(1_572_864.5), "1.50 MiB/s"),
        ("/rates/requests_per_second", json!(0.001), "< 0.01/s"),
        ("/stream/billed_bytes", json!(10_240), "10.0 KiB"),
        ("/stream/unpacked_billed_bytes", json!(102_400), "100 KiB"),
        ("/stream/packing", json!({ "packed": true, "reason": "S3 takes records as one text" }), ""),
        (
            "/stream/compression",
            json!({ "input_bytes": 943_718_400_u64, "output_bytes": 209_715_200_u64 }),
            "",
        ),
        ("/stream/put_seconds_p99_below", json!(0.025), "< 25 ms"),
        ("/buffer/oldest_record_age_ms", json!(90_500), "1 min 30 s"),
        ("/uptime_seconds", json!(266_461), "3 d 2 h"),
        ("/monitor/processors", json!(["Lambda", "Decompression"]), "Lambda, Decompression"),
        ("/monitor/readings/data_freshness_seconds/value", json!(12.5), "12.5 s"),
        ("/monitor/readings/delivery_success_ratio/value", json!(0.9876), "98.8 %"),
        ("/monitor/quota_use/bytes", json!(1.0), "100 %"),
    ];
    for (place, value, _) in &cases {
        set(&mut status, place, value.clone());
    }
    let texts = page.show(held, Answer::Forged(&status), TEXTS).await;
    for (place, _, text) in cases.iter().filter(|(_, _, text)| !text.is_empty()) {
        assert_eq!(texts[place], *text, "{place}");
    }
    assert_eq!(texts["factor"], "10 ×");
    assert_eq!(texts["saving"], "90.0 %");
    assert_eq!(texts["ratio"], "4.50 ×");
    assert_eq!(texts["/stream/compression/input_bytes"], "900 MiB");
    assert_eq!(texts["/stream/packing/packed"], "yes");
    assert_eq!(texts["/stream/packing/reason"], "S3 takes records as one text");
    // What was forged does not add up, and the page says so.
    let balance = page.evaluate("document.getElementById('balance').textContent").await;
    assert!(balance.as_str().unwrap().starts_with('✕'), "{balance}");
}

/// The rows of the table of streams: the texts of their cells; and what else says that there are several.
const STREAMS: &str = "({
    levels: [...document.querySelectorAll('#streams tbody [data-level]')].map((cell) => cell.dataset.level),
    rows: [...document.querySelectorAll('#streams tbody tr')].map((row) => [...row.children].map((cell) => cell.textContent)),
    titles: [...document.querySelectorAll('#streams thead th')].map((title) => title.textContent),
    shown: !document.getElementById('streams').hidden,
    compressed: !document.getElementById('compressed').hidden,
    name: document.querySelector('h1').textContent,
    note: document.getElementById('monitor-note').textContent,
})";

/// One of several streams, as the status has it.
fn one_of_several(name: &str, trouble: &Value) -> Value {
    let held = if trouble.is_null() { 0 } else { 1234 };
    json!({
        "delivery_stream_name": name, "status": "ACTIVE", "trouble": trouble, "spool": { "bytes": 1_048_576 },
        "ledger": { "held": { "records": held }, "delivered": { "records": 20_000_000 } },
        "oldest_record_age_ms": if held > 0 { json!(90_500) } else { Value::Null },
        "requests": { "PutRecordBatch": { "ok": 4, "throttled": 3 }, "PutRecord": { "throttled": 2 } },
        "retried": { "InternalFailure": 5, "ThrottlingException": 6 },
        "billed_bytes": 1_048_576, "unpacked_billed_bytes": 4_194_304,
        "packing": if held > 0 { Value::Null } else { json!({ "packed": true, "reason": "it is so" }) },
    })
}

// R-V11
#[tokio::test]
async fn each_of_several_streams_is_a_row_and_one_stream_is_none() {
    let gone = [
        "listen.gone.address=tcp:127.0.0.1:0",
        "listen.gone.delivery_stream_name=gone",
        "aggregate.mode=auto",
    ];
    let scene = Scene::start(Faults::default(), &gone).await;
    let Some(mut page) = Page::open(&scene.address).await else { return };
    scene.daemon.write(&lines(100, 500)).await;
    scene.daemon.until_settled(100).await;
    let known = |status: &Value| {
        let packed = |stream: usize| status["streams"][stream]["packing"]["packed"].as_bool();
        status["monitor"]["described_ms_ago"].is_u64() && (packed(0), packed(1)) == (Some(true), Some(false))
    };
    scene.daemon.until("both streams were asked for", known).await;
    // An answer that is held may be older.
    let held = loop {
        let held = page.held().await;
        if held.status.as_ref().is_some_and(known) {
            break held;
        }
        page.show(held, Answer::Daemons, "null").await;
    };
    let status = held.status.clone().unwrap();
    let [first, second] = &status["streams"].as_array().unwrap()[..] else { panic!("{status:#}") };
    let name = first["delivery_stream_name"].as_str().unwrap();
    let seen = page.show(held, Answer::Daemons, STREAMS).await;
    assert_eq!(seen["shown"], true);
    assert_eq!(seen["titles"][0], "Held");
    assert_eq!(seen["name"], format!("{name} and 1 more"));
    assert_eq!(seen["note"], format!("Of {name} alone."));
    let rows = seen["rows"].as_array().unwrap();
    assert!(rows[0][0].as_str().unwrap().starts_with(name), "{seen:#}");
    assert_eq!(
        (&rows[0][1], &rows[0][2], &rows[0][3]),
        (&json!("0"), &json!("none"), &json!("100")),
        "{seen:#}"
    );
    assert_eq!(
        (&rows[0][4], &rows[0][5], &rows[0][9]),
        (&json!("0"), &json!("0"), &json!("none")),
        "{seen:#}"
    );
    assert_eq!(second["delivery_stream_name"], "gone");
    assert_eq!((&rows[0][6], &second["packing"]["packed"]), (&json!("yes"), &json!(false)), "{status:#}");
    assert_eq!(status["stream"]["packing"], Value::Null, "they differ");
    assert_eq!(second["quota"], json!({ "waits": false, "wait_ms": 0, "pace_bytes_per_second": null }));

    // One that is in trouble, and says so in words of whoever answered.
    let held = page.held().await;
    let mut forged = held.status.clone().unwrap();
    let hostile = "<b>no</b>";
    let trouble =
        json!({ "permanent": true, "error_code": hostile, "message": "it is not there", "since_ms": 42_000 });
    forged["streams"] = json!([one_of_several("app", &Value::Null), one_of_several(hostile, &trouble)]);
    let seen = page.show(held, Answer::Forged(&forged), STREAMS).await;
    let figures = [["20.0 M", "11", "5"], ["1.00 MiB", "75.0 %", "1.00 MiB"]];
    let expected = |name: &'static str, held: [&'static str; 2], packed| {
        [&[name][..], &held, &figures[0], &[packed], &figures[1]].concat()
    };
    assert_eq!(
        seen["rows"],
        json!([
            expected("app ACTIVE", ["0", "none"], "yes"),
            expected("<b>no</b> ACTIVE", ["1,234", "1 min 30 s"], "not decided yet"),
            ["<b>no</b> for 42 s: it is not there"],
        ])
    );

    assert_eq!(seen["levels"], json!(["problem"]));
    // What passes by itself looks otherwise.
    let held = page.held().await;
    set(&mut forged, "/streams/1/trouble/permanent", false.into());
    let seen = page.show(held, Answer::Forged(&forged), STREAMS).await;
    assert_eq!(seen["levels"], json!(["warning"]));

    let held = page.held().await;
    let mut single = held.status.clone().unwrap();
    single["streams"] = json!([]);
    let seen = page.show(held, Answer::Forged(&single), STREAMS).await;
    assert_eq!(
        seen,
        json!({ "rows": [], "levels": [], "titles": seen["titles"], "shown": false, "compressed": false, "name": name, "note": seen["note"] })
    );
    assert_ne!(seen["note"], format!("Of {name} alone."));
    page.assert_clean(&scene.address);
}

// R-M18
#[tokio::test]
async fn what_is_not_known_is_said_to_be_unknown() {
    let scene = Scene::quiet().await;
    let Some(mut page) = Page::open(&scene.address).await else { return };
    let held = page.held().await;
    let mut status = held.status.clone().unwrap();
    status["monitor"] = Value::Null;
    status["rates"]["window_ms"] = json!(0);
    status["process"]["resident_bytes"] = Value::Null;
    status["stream"]["packing"] = Value::Null;
    status["ledger"]["held"]["records"] = json!(1);
    let texts = page.show(held, Answer::Forged(&status), TEXTS).await;
    for place in [
        "/monitor/status",
        "/monitor/readings/incoming_bytes/value",
        "/monitor/quota_use/bytes",
        "/rates/received_bytes_per_second",
        "/stream/delivery_seconds_p99_below",
        "/process/resident_bytes",
        "/buffer/oldest_record_age_ms",
        "factor",
        "saving",
    ] {
        assert_eq!(texts[place], "unknown", "{place}");
    }
    assert_eq!(texts["/ledger/received/records"], "0");
    assert_eq!(texts["/stream/packing/packed"], "not decided yet");
    page.assert_clean(&scene.address);
}

// R-M18
#[tokio::test]
async fn text_from_outside_is_shown_as_it_is_and_never_run() {
    const HOSTILE: &str = "<img src=x onerror=\"document.title='run'\"><script>document.title='run'</script>";
    let scene = Scene::quiet().await;
    let Some(mut page) = Page::open(&scene.address).await else { return };
    let held = page.held().await;
    let mut status = known(held.status.clone().unwrap());
    for place in [
        "/delivery_stream_name",
        "/stuck/why",
        "/listeners/0/name",
        "/listeners/0/address",
        "/monitor/status",
    ] {
        set(&mut status, place, HOSTILE.into());
    }
    status["stuck"]["level"] = "problem".into();
    status["stuck"]["at"] = HOSTILE.into();
    status["reasons"] = json!([HOSTILE]);
    status["stream"]["trouble"] =
        json!({ "permanent": true, "error_code": HOSTILE, "message": HOSTILE, "since_ms": 1 });
    status["stream"]["retried"] = json!({ HOSTILE: 1, "a/b~c": 2, "__proto__": 3 });
    status["stream"]["requests"] = json!({ HOSTILE: { HOSTILE: 1 } });
    status["monitor"]["problems"] = json!({ HOSTILE: HOSTILE });
    let texts = page.show(held, Answer::Forged(&status), TEXTS).await;
    assert_eq!(texts["/delivery_stream_name"], HOSTILE);
    assert_eq!(texts["/stream/trouble/message"], HOSTILE);
    assert_eq!(texts["/stream/retried/a~1b~0c"], "2");
    let made =
        page.evaluate("document.querySelectorAll('img, script:not(:last-child), [onerror]').length").await;
    assert_eq!(made, 0);
    assert_ne!(page.evaluate("document.title").await, "run");
    page.assert_clean(&scene.address);
    // Not even a mistake in the page's own script could make markup of a text.
    let markup =
        "(() => { try { document.body.innerHTML = '<p>'; return 'made'; } catch { return 'refused'; } })()";
    assert_eq!(page.evaluate(markup).await, "refused");
}

#[tokio::test]
async fn the_stretch_where_records_are_stuck_is_marked_and_the_sentence_beside_it() {
    const MARKED: &str = "({
        headline: document.getElementById('headline').textContent,
        stations: [...document.querySelectorAll('.station[data-level]')].map((each) => each.dataset.station),
        tag: [...document.querySelectorAll('.tag')].map((tag) => tag.textContent).join(''),
        why: document.getElementById('why').textContent,
        said: document.getElementById('announcement').textContent,
    })";
    let scene = Scene::quiet().await;
    let Some(mut page) = Page::open(&scene.address).await else { return };
    let cases = [
        ("nowhere", "ok", "Healthy", ""),
        ("producer", "idle", "Idle", "idle"),
        ("daemon", "warning", "Held up at the daemon", "held up here"),
        ("firehose", "problem", "Stuck at Firehose", "stuck here"),
        ("destination", "problem", "Stuck at the destination", "stuck here"),
    ];
    for (at, level, headline, tag) in cases {
        let held = page.held().await;
        let mut status = held.status.clone().unwrap();
        status["stuck"] = json!({ "at": at, "level": level, "why": "this is why" });
        let marked = page.show(held, Answer::Forged(&status), MARKED).await;
        let stations = if at == "nowhere" { json!([]) } else { json!([at]) };
        let said = format!("{headline}. This is why.");
        let expected = json!({ "headline": headline, "stations": stations, "tag": tag, "why": "This is why.", "said": said });
        assert_eq!(marked, expected);
    }
    page.assert_clean(&scene.address);
}

/// The texts whose contrast with what is behind them is below that of WCAG 2.2, level AA
/// (<https://www.w3.org/TR/WCAG22/#contrast-minimum>), and the elements that reach out of the window.
const FAULTS_OF_LAYOUT: &str = "(() => {
    const canvas = new OffscreenCanvas(1, 1).getContext('2d', { willReadFrequently: true });
    const rgba = (colour) => {
        canvas.clearRect(0, 0, 1, 1);
        canvas.fillStyle = colour;
        canvas.fillRect(0, 0, 1, 1);
        return [...canvas.getImageData(0, 0, 1, 1).data];
    };
    const light = (colour) => {
        const [r, g, b] = colour.map((part) => part / 255).map((part) => part <= 0.04045 ? part / 12.92 : ((part + 0.055) / 1.055) ** 2.4);
        return 0.2126 * r + 0.7152 * g + 0.0722 * b;
    };
    const behind = (element) => {
        for (let at = element; at; at = at.parentElement) {
            const colour = rgba(getComputedStyle(at).backgroundColor);
            if (colour[3] === 255) return colour;
        }
        return [255, 255, 255, 255];
    };
    const faults = [];
    if (document.documentElement.scrollWidth > innerWidth) faults.push(`${document.documentElement.scrollWidth} px of ${innerWidth}`);
    for (const element of document.querySelectorAll('body *')) {
        const box = element.getBoundingClientRect();
        if (element.closest('.heard, .canvas, script') || !box.width) continue;
        if (box.right > innerWidth + 0.5 || box.left < -0.5) faults.push(`out of the window: ${element.outerHTML.slice(0, 80)}`);
        const own = [...element.childNodes].some((node) => node.nodeType === 3 && node.data.trim());
        if (!own) continue;
        const [one, other] = [light(rgba(getComputedStyle(element).color)), light(behind(element))].sort((a, b) => b - a);
        const contrast = (one + 0.05) / (other + 0.05);
        if (contrast < 4.5) faults.push(`contrast ${contrast.toFixed(2)}: ${element.outerHTML.slice(0, 80)}`);
    }
    return faults;
})()";

#[tokio::test]
async fn the_page_fits_a_phone_and_a_desktop_and_can_be_read_in_light_and_dark() {
    let scene = Scene::quiet().await;
    let Some(mut page) = Page::open(&scene.address).await else { return };
    let long = "x".repeat(64);
    for level in ["ok", "idle", "warning", "problem"] {
        let held = page.held().await;
        let mut status = known(held.status.clone().unwrap());
        let place = if level == "ok" { "nowhere" } else { "firehose" };
        status["stuck"] = json!({ "at": place, "level": level, "why": long });
        status["delivery_stream_name"] = long.as_str().into();
        status["reasons"] = json!(["the daemon is stopping"]);
        status["monitor"]["problems"] = json!({ "GetMetricData": long });
        status["monitor"]["encryption"] = long.as_str().into();
        status["listeners"][0]["address"] = format!("unix:/{long}/{long}").into();
        status["stream"]["retried"] = json!({ long.as_str(): 1 });
        let permanent = level == "problem";
        status["stream"]["trouble"] =
            json!({ "permanent": permanent, "error_code": long, "message": long, "since_ms": 1 });
        let trouble = status["stream"]["trouble"].clone();
        status["stream"]["compression"] = json!({ "input_bytes": u64::MAX, "output_bytes": 1_u64 << 60 });
        status["streams"] = json!([one_of_several(&long, &trouble), one_of_several("audit", &Value::Null)]);
        set(&mut status, "/ledger/dropped/buffer_full/records", json!(999_999_999_u64));
        page.show(held, Answer::Forged(&status), "null").await;
        for (width, scheme) in
            [(360, "light"), (360, "dark"), (800, "light"), (1440, "light"), (1440, "dark"), (2560, "dark")]
        {
            page.look(width, scheme).await;
            let faults = page.evaluate(FAULTS_OF_LAYOUT).await;
            assert_eq!(faults, json!([]), "{width} px, {scheme}, {level}");
        }
    }
    page.assert_clean(&scene.address);
}

#[tokio::test]
async fn a_daemon_that_does_not_answer_is_said_so_until_it_does() {
    const STATE: &str = "[document.body.dataset.reachable, document.getElementById('headline').textContent]";
    let scene = Scene::quiet().await;
    let Some(mut page) = Page::open(&scene.address).await else { return };
    let held = page.held().await;
    let before = page.show(held, Answer::Daemons, STATE).await;
    assert_eq!(before[0], "yes");
    let endpoint = scene.sink.local.url();
    let admin = scene.daemon.admin.trim_start_matches("tcp:").to_owned();
    scene.daemon.stop().await;

    page.when_changed("document.body", "data-reachable", STATE).await;
    // A request may have been answered just before the end.
    let held = loop {
        let held = page.held().await;
        if held.status.is_none() {
            break held;
        }
        page.let_go(held).await;
    };
    page.let_go(held).await;
    assert_eq!(page.evaluate("window.seen").await, json!(["no", "Not reachable"]));

    let daemon = Daemon::start(&endpoint, &[&format!("admin.address=tcp:{admin}")]).await;
    let held = loop {
        let held = page.held().await;
        if held.status.is_some() {
            break held;
        }
        page.let_go(held).await;
    };
    let after = page.show(held, Answer::Daemons, STATE).await;
    assert_eq!(after[0], "yes");
    assert_ne!(after[1], "Not reachable");
    daemon.stop().await;
}

#[tokio::test]
async fn counts_that_start_again_make_no_negative_rates() {
    const PLOTTED: &str =
        "[...document.querySelectorAll('figcaption .value')].map((value) => JSON.parse(value.dataset.value))";
    let scene = Scene::quiet().await;
    let Some(mut page) = Page::open(&scene.address).await else { return };
    // A daemon that has taken a lot, counts that fall, and another daemon that has just started.
    let answers =
        [(5000, 1_000_000_000), (5002, 1_000_010_000), (5004, 500), (5006, 2500), (1, 100), (3, 4100)];
    for (uptime, count) in answers {
        let held = page.held().await;
        let mut status = held.status.clone().unwrap();
        status["uptime_seconds"] = json!(uptime);
        let row = status["sample"].as_array_mut().unwrap();
        // Received and delivered, records and bytes.
        row[1..5].fill(json!(count));
        let plotted = page.show(held, Answer::Forged(&status), PLOTTED).await;
        for value in plotted.as_array().unwrap() {
            assert!(value.as_f64().is_none_or(|value| value >= 0.0), "{plotted}");
        }
        if [5006, 3].contains(&uptime) {
            assert!(plotted[0].as_f64().is_some_and(|rate| rate > 0.0), "{plotted}");
        }
    }
    page.assert_clean(&scene.address);
}

#[tokio::test]
async fn a_hidden_tab_asks_nothing_and_a_tab_that_is_seen_again_asks_at_once() {
    let scene = Scene::quiet().await;
    let Some(mut page) = Page::open(&scene.address).await else { return };
    let held = page.held().await;
    page.show(held, Answer::Daemons, "null").await;
    let turn = |hidden: bool| {
        format!(
            "Object.defineProperty(document, 'hidden', {{ value: {hidden}, configurable: true }});
            document.dispatchEvent(new Event('visibilitychange')); timers.size"
        )
    };
    // Whether the next question is under way already or not, none follows it.
    let held = page.held().await;
    assert_eq!(page.evaluate(&turn(true)).await, 0);
    page.show(held, Answer::Daemons, "null").await;
    assert_eq!(page.evaluate("timers.size").await, 0);
    page.evaluate(&turn(false)).await;
    let held = page.held().await;
    page.show(held, Answer::Daemons, "null").await;
    assert_eq!(page.evaluate("timers.size").await, 1);
    page.assert_clean(&scene.address);
}

#[tokio::test]
async fn the_page_finds_the_daemon_below_the_path_of_a_proxy() {
    let scene = Scene::quiet().await;
    let Some(mut page) = Page::open(&scene.address).await else { return };
    let (_, html) = scene.daemon.get("/").await;
    for (path, status) in [("hydrant/", "hydrant/status"), ("a/b", "a/b/status")] {
        let (path, status) = (format!("{}{path}", scene.address), format!("{}{status}", scene.address));
        // The browser plays the proxy.
        page.hold(&path).await;
        page.evaluate(&format!("location = {path:?}; null")).await;
        let document = page.held_at(&path).await;
        page.hold("*/status").await;
        page.forge(document, "text/html", &html).await;
        page.held_at(&status).await;
    }
}
