//! Chromium without a window, driven over its DevTools protocol:
//! <https://chromedevtools.github.io/devtools-protocol/>
//!
//! The protocol goes over two pipes, messages that end in a NUL byte, so that nothing but the
//! browser itself has to be installed. A page's requests for `/status` are held until the test has
//! said what becomes of them, so that a test knows which answer it is that it sees.

use std::io::Write;
use std::process::Stdio;
use std::sync::OnceLock;

use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};
use tokio::process::{Child, ChildStdin, ChildStdout, Command};

use crate::daemon::patiently;

/// Set where a test that cannot run is a failure.
const REQUIRED: &str = "REQUIRE_PEERS";
/// What the browser is called, by distribution.
const NAMES: [&str; 3] = ["chromium", "chromium-browser", "google-chrome"];
/// It starts with nothing, asks nobody for updates, and shows nothing.
const FLAGS: [&str; 13] = [
    "--remote-debugging-pipe",
    "--headless",
    "--disable-gpu",
    "--disable-quic",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-default-apps",
    "--disable-dev-shm-usage",
    "--disable-extensions",
    "--disable-sync",
    "--hide-scrollbars",
    "--no-first-run",
    // Its sandbox does not start for root; it sees only the pages of these tests.
    "--no-sandbox",
];
/// Runs before the page's own script. How long a test holds an answer is no business of the page's,
/// and which timers it has is the test's.
const PREPARE: &str = "
    AbortSignal.timeout = () => new AbortController().signal;
    const { setTimeout: set, clearTimeout: clear } = window;
    window.timers = new Set();
    window.setTimeout = (run, ...rest) => {
        const timer = set(() => { timers.delete(timer); run(); }, ...rest);
        timers.add(timer);
        return timer;
    };
    window.clearTimeout = (timer) => { timers.delete(timer); clear(timer); };
";

/// The name of the browser, or `None` once it was said that the calling test is skipped.
fn installed() -> Option<&'static str> {
    static NAME: OnceLock<Option<&str>> = OnceLock::new();
    let runs = |name: &&&str| {
        let version = std::process::Command::new(name).arg("--version").stdin(Stdio::null()).output();
        version.is_ok_and(|output| output.status.success())
    };
    let name = *NAME.get_or_init(|| NAMES.iter().find(runs).copied());
    if name.is_none() {
        let reason = format!("no browser is installed (looked for {NAMES:?})");
        assert!(std::env::var_os(REQUIRED).is_none(), "{REQUIRED} is set, but {reason}");
        // Not a macro: what those print, the test runner keeps from whoever watches.
        std::io::stderr().write_all(format!("skipped: {reason}\n").as_bytes()).unwrap();
    }
    name
}

/// A browser with one page. Killed when it is dropped.
pub(crate) struct Page {
    commands: ChildStdin,
    messages: BufReader<ChildStdout>,
    session: Option<String>,
    last_id: u64,
    /// What the browser said by itself and nobody has taken yet.
    events: Vec<Value>,
    /// Every address that the page has asked for.
    requests: Vec<String>,
    /// Every error and warning of the console.
    complaints: Vec<String>,
    _child: Child,
    _profile: TempDir,
}

/// A request for `/status` that the page waits for.
pub(crate) struct Held {
    id: Value,
    /// What the daemon answered; `None` if it did not.
    pub(crate) status: Option<Value>,
}

/// What becomes of a held request.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Answer<'a> {
    /// What the daemon answered.
    Daemons,
    /// This in its place.
    Forged(&'a Value),
}

impl Page {
    /// The page at `address` in a browser of its own; `None` where none is installed.
    pub(crate) async fn open(address: &str) -> Option<Self> {
        let profile = tempfile::tempdir().unwrap();
        let mut command = Command::new("sh");
        // The browser reads commands from descriptor 3 and writes to 4.
        command.args(["-c", r#"exec "$0" "$@" 3<&0 4>&1 </dev/null >/dev/null"#, installed()?]);
        command.args(FLAGS).arg(format!("--user-data-dir={}", profile.path().display()));
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::null()).kill_on_drop(true);
        let mut child = command.env("HOME", profile.path()).spawn().unwrap();
        let mut page = Self {
            commands: child.stdin.take().unwrap(),
            messages: BufReader::new(child.stdout.take().unwrap()),
            session: None,
            last_id: 0,
            events: Vec::new(),
            requests: Vec::new(),
            complaints: Vec::new(),
            _child: child,
            _profile: profile,
        };
        let target = page.call("Target.createTarget", json!({ "url": "about:blank" })).await;
        let attach = json!({ "targetId": target["targetId"], "flatten": true });
        let session = page.call("Target.attachToTarget", attach).await;
        page.session = session["sessionId"].as_str().map(str::to_owned);
        for domain in ["Page", "Runtime", "Log", "Network"] {
            page.call(&format!("{domain}.enable"), json!({})).await;
        }
        page.call("Page.addScriptToEvaluateOnNewDocument", json!({ "source": PREPARE })).await;
        page.hold("*/status").await;
        page.call("Page.navigate", json!({ "url": address })).await;
        Some(page)
    }

    /// Holds the requests for addresses like `pattern`, and no others.
    pub(crate) async fn hold(&mut self, pattern: &str) {
        let patterns = json!([{ "urlPattern": pattern, "requestStage": "Response" }]);
        self.call("Fetch.enable", json!({ "patterns": patterns })).await;
    }

    /// The browser's answer to a command.
    pub(crate) async fn call(&mut self, method: &str, params: Value) -> Value {
        self.last_id += 1;
        let id = self.last_id;
        let mut command = json!({ "id": id, "method": method, "params": params });
        if let Some(session) = &self.session {
            command["sessionId"] = session.as_str().into();
        }
        self.commands.write_all(format!("{command}\0").as_bytes()).await.unwrap();
        loop {
            let message = self.message(method).await;
            if message["id"] == id {
                assert!(message.get("error").is_none(), "{method}: {message:#}");
                return message["result"].clone();
            }
            self.events.push(message);
        }
    }

    /// The next message of the browser, noted if it is of a request or a complaint.
    async fn message(&mut self, awaited: &str) -> Value {
        let mut message = Vec::new();
        let read = self.messages.read_until(0, &mut message);
        patiently(awaited, read).await.unwrap();
        assert_eq!(message.pop(), Some(0), "the browser has ended: {}", String::from_utf8_lossy(&message));
        let message: Value = serde_json::from_slice(&message).unwrap();
        let params = &message["params"];
        match message["method"].as_str().unwrap_or_default() {
            "Network.requestWillBeSent" => {
                self.requests.push(params["request"]["url"].as_str().unwrap().to_owned());
            }
            "Runtime.exceptionThrown" => self.complaints.push(params.to_string()),
            "Runtime.consoleAPICalled" if params["type"] != "log" => self.complaints.push(params.to_string()),
            "Log.entryAdded" if params["entry"]["level"] != "info" => {
                self.complaints.push(params.to_string());
            }
            _ => {}
        }
        message
    }

    /// The next request for `/status`, once the daemon has answered it or could not be asked.
    pub(crate) async fn held(&mut self) -> Held {
        let event = self.paused(|url| url.ends_with("/status")).await;
        let id = event["requestId"].clone();
        if event["responseStatusCode"] != 200 {
            return Held { id, status: None };
        }
        let body = self.call("Fetch.getResponseBody", json!({ "requestId": id })).await;
        let text = body["body"].as_str().unwrap();
        let bytes = match body["base64Encoded"] == true {
            true => base64_simd::STANDARD.decode_to_vec(text).unwrap(),
            false => text.as_bytes().to_vec(),
        };
        Held { id, status: Some(serde_json::from_slice(&bytes).unwrap()) }
    }

    /// The next request for `url`, whatever was answered.
    pub(crate) async fn held_at(&mut self, url: &str) -> Held {
        let event = self.paused(|other| other == url).await;
        Held { id: event["requestId"].clone(), status: None }
    }

    /// The next held request with such an address.
    async fn paused(&mut self, is_meant: impl Fn(&str) -> bool) -> Value {
        let is_meant = |event: &Value| {
            event["method"] == "Fetch.requestPaused"
                && event["params"]["request"]["url"].as_str().is_some_and(&is_meant)
        };
        loop {
            if let Some(place) = self.events.iter().position(is_meant) {
                return self.events.remove(place)["params"].take();
            }
            let message = self.message("asked").await;
            self.events.push(message);
        }
    }

    /// Lets the page have `answer` and gives the value of the expression `read`, evaluated when it
    /// has been shown and before anything else happens.
    pub(crate) async fn show(&mut self, held: Held, answer: Answer<'_>, read: &str) -> Value {
        self.when_changed("document.documentElement", "data-answers", read).await;
        match answer {
            Answer::Daemons => self.let_go(held).await,
            Answer::Forged(status) => self.forge(held, "application/json", &status.to_string()).await,
        }
        self.evaluate("window.seen").await
    }

    /// Lets the browser have `body` in place of what the daemon answered.
    pub(crate) async fn forge(&mut self, held: Held, kind: &str, body: &str) {
        let body = base64_simd::STANDARD.encode_to_string(body);
        let headers = json!([{ "name": "content-type", "value": kind }]);
        let answer =
            json!({ "requestId": held.id, "responseCode": 200, "responseHeaders": headers, "body": body });
        self.call("Fetch.fulfillRequest", answer).await;
    }

    /// Lets the page have what the daemon answered, or that it did not.
    pub(crate) async fn let_go(&mut self, held: Held) {
        self.call("Fetch.continueRequest", json!({ "requestId": held.id })).await;
    }

    /// Makes `window.seen` the promise of the value of `read` when `attribute` changes next.
    pub(crate) async fn when_changed(&mut self, element: &str, attribute: &str, read: &str) {
        let observe = format!(
            "window.seen = new Promise((resolve) => {{
                new MutationObserver((_, observer) => {{ observer.disconnect(); resolve({read}); }})
                    .observe({element}, {{ attributeFilter: [{attribute:?}] }});
            }}); null"
        );
        self.evaluate(&observe).await;
    }

    /// The value of a JavaScript expression, or of what it promises.
    pub(crate) async fn evaluate(&mut self, expression: &str) -> Value {
        let params = json!({ "expression": expression, "returnByValue": true, "awaitPromise": true });
        let result = self.call("Runtime.evaluate", params).await;
        assert!(result.get("exceptionDetails").is_none(), "{expression}: {result:#}");
        result["result"]["value"].clone()
    }

    /// Makes the window as wide as told, and the wish for dark or light what is told.
    pub(crate) async fn look(&mut self, width: usize, scheme: &str) {
        let size = json!({ "width": width, "height": 800, "deviceScaleFactor": 1, "mobile": false });
        self.call("Emulation.setDeviceMetricsOverride", size).await;
        let scheme = json!([{ "name": "prefers-color-scheme", "value": scheme }]);
        self.call("Emulation.setEmulatedMedia", json!({ "features": scheme })).await;
    }

    /// Fails if the page has asked for anything but what is at `address`, or if the console has
    /// an error or a warning.
    pub(crate) fn assert_clean(&self, address: &str) {
        let own = |url: &&String| url.starts_with(address) || url.starts_with("data:");
        assert!(!self.requests.is_empty());
        let others: Vec<_> = self.requests.iter().filter(|url| !own(url)).collect();
        assert!(others.is_empty(), "the page asked for {others:?}");
        assert!(self.complaints.is_empty(), "{:#?}", self.complaints);
    }
}
