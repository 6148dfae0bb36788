//! `hydrant top` on a real terminal: a pseudo-terminal, and a parser of what is written to it.

use std::fs::File;
use std::io::{Read, Write};
use std::num::NonZeroU16;
use std::os::fd::OwnedFd;
use std::process::Stdio;

use hydrant::local::Options;
use rustix::process::{Pid, Signal, kill_process};
use rustix::pty::{OpenptFlags, grantpt, ioctl_tiocgptpeer, openpt, unlockpt};
use rustix::termios::{LocalModes, Winsize, tcgetattr, tcsetwinsize};
use tokio::process::{Child, Command};
use tokio::sync::watch;

use crate::daemon::{Daemon, PATIENCE, Sink, hydrant, lines, number, patiently};

/// Columns and rows of the terminal at first.
const SIZE: [u16; 2] = [100, 30];
/// Columns and rows after it was made larger.
const LARGER: [u16; 2] = [140, 40];

/// `hydrant top` on a terminal of its own.
struct Top {
    child: Child,
    keyboard: File,
    /// The program's side of the terminal, to look at its settings when the program has ended.
    terminal: OwnedFd,
    /// What is on the screen, whenever that changes.
    screen: watch::Receiver<vt100::Screen>,
}

impl Top {
    fn start(arguments: &[&str]) -> Self {
        let flags = OpenptFlags::RDWR | OpenptFlags::NOCTTY;
        let master = openpt(flags).unwrap();
        grantpt(&master).unwrap();
        unlockpt(&master).unwrap();
        let terminal = ioctl_tiocgptpeer(&master, flags).unwrap();
        resize(&terminal, SIZE);
        // A session of its own makes it the program's controlling terminal, as it is a shell's.
        let mut command = Command::new("setsid");
        command.arg("--ctty").arg(env!("CARGO_BIN_EXE_hydrant")).arg("top").args(arguments);
        command.env("TERM", "xterm-256color").env_remove("NO_COLOR").kill_on_drop(true);
        let side = || Stdio::from(terminal.try_clone().unwrap());
        let child = command.stdin(side()).stdout(side()).stderr(side()).spawn().unwrap();
        let keyboard = File::from(master);
        let screen = emulate(keyboard.try_clone().unwrap());
        Self { child, keyboard, terminal, screen }
    }

    fn press(&mut self, key: &str) {
        self.keyboard.write_all(key.as_bytes()).unwrap();
    }

    /// Waits until the screen is as expected.
    async fn until(&mut self, what: &str, expected: impl Fn(&vt100::Screen) -> bool) -> vt100::Screen {
        let shown = self.screen.wait_for(|screen| expected(screen));
        let shown = tokio::time::timeout(PATIENCE, shown).await.map(|screen| screen.unwrap().clone());
        shown.unwrap_or_else(|_| panic!("never {what}:\n{}", self.screen.borrow().contents()))
    }

    async fn until_shown(&mut self, text: &str) -> vt100::Screen {
        self.until(&format!("showed {text:?}"), |screen| screen.contents().contains(text)).await
    }

    /// Whether the terminal echoes what is typed and waits for whole lines, as one does that no
    /// program has taken.
    fn is_cooked(&self) -> bool {
        let modes = tcgetattr(&self.terminal).unwrap().local_modes;
        modes.contains(LocalModes::ICANON | LocalModes::ECHO)
    }

    /// Waits for the end, which must leave the terminal as it was; returns the exit code.
    async fn ended(mut self) -> i32 {
        let status = patiently("ended", self.child.wait()).await.unwrap();
        assert!(self.is_cooked(), "the terminal was left raw");
        let own = |screen: &vt100::Screen| screen.alternate_screen() || screen.hide_cursor();
        self.until("gave the terminal back", |screen| !own(screen)).await;
        status.code().unwrap()
    }
}

fn resize(terminal: &OwnedFd, [columns, rows]: [u16; 2]) {
    let size = Winsize { ws_row: rows, ws_col: columns, ws_xpixel: 0, ws_ypixel: 0 };
    tcsetwinsize(terminal, size).unwrap();
}

/// Reads what the program writes, as a terminal does.
fn emulate(mut output: File) -> watch::Receiver<vt100::Screen> {
    let [columns, rows] = LARGER.map(|side| NonZeroU16::new(side).unwrap());
    let mut parser = vt100::Parser::new(rows, columns, 0);
    let (shown, screen) = watch::channel(parser.screen().clone());
    // A thread, since a terminal can't be waited for like a socket; it ends with the process.
    std::thread::spawn(move || {
        let mut bytes = [0; 4096];
        while let Ok(read) = output.read(&mut bytes) {
            parser.process(&bytes[..read]);
            shown.send_replace(parser.screen().clone());
        }
    });
    screen
}

/// The number in the row of `name`.
fn shown(screen: &vt100::Screen, name: &str) -> Option<u64> {
    let contents = screen.contents();
    let mut rows = contents.lines().filter_map(|row| row.trim_matches([' ', '│']).strip_prefix(name));
    rows.find_map(|rest| rest.split_whitespace().next()?.replace(',', "").parse().ok())
}

/// A daemon that has delivered `records`.
async fn delivering(sink: &Sink, records: usize) -> Daemon {
    let daemon = Daemon::start(&sink.local.url(), &["linger=10ms"]).await;
    daemon.write(&lines(records, 100)).await;
    daemon.until_settled(records as u64).await;
    daemon
}

// R-T6
#[tokio::test]
async fn top_shows_what_the_status_says_and_gives_the_terminal_back() {
    let sink = Sink::start(Options::default()).await;
    let daemon = delivering(&sink, 1234).await;
    let mut top = Top::start(&["--admin", &daemon.admin]);
    let delivered = number(&daemon.status().await, "/ledger/delivered/records");
    // The last bytes of a frame, which hide the cursor, may come after those that hold the number.
    let whole = |screen: &vt100::Screen| {
        let own = screen.alternate_screen() && screen.hide_cursor();
        own && shown(screen, "delivered") == Some(delivered)
    };
    top.until("showed what is delivered", whole).await;
    assert!(!top.is_cooked());
    daemon.write(&lines(4321, 100)).await;
    top.until("followed", |screen| shown(screen, "delivered") == Some(5555)).await;
    resize(&top.terminal, LARGER);
    top.until_shown("last 1 min, at most").await;
    top.press("q");
    assert_eq!(top.ended().await, 0);
    assert!(daemon.stop().await.status.success());
}

// R-T6
#[tokio::test]
async fn every_way_out_of_top_gives_the_terminal_back() {
    let sink = Sink::start(Options::default()).await;
    let daemon = delivering(&sink, 1).await;
    for key in ["\x1b", "\x03"] {
        let mut top = Top::start(&["--admin", &daemon.admin]);
        top.until_shown("q quit").await;
        top.press(key);
        assert_eq!(top.ended().await, 0, "{key:?}");
    }
    for signal in [Signal::TERM, Signal::INT, Signal::HUP] {
        let mut top = Top::start(&["--admin", &daemon.admin]);
        top.until_shown("q quit").await;
        let id = i32::try_from(top.child.id().unwrap()).unwrap();
        kill_process(Pid::from_raw(id).unwrap(), signal).unwrap();
        assert_eq!(top.ended().await, 0, "{signal:?}");
    }
    assert!(daemon.stop().await.status.success());
}

// R-T6
#[tokio::test]
async fn top_says_that_the_daemon_is_gone_and_finds_the_next_one() {
    let sink = Sink::start(Options::default()).await;
    let directory = tempfile::tempdir().unwrap();
    let admin = format!("unix:{}", directory.path().join("admin.sock").display());
    let settings = ["linger=10ms", &format!("admin.address={admin}")];
    let daemon = Daemon::start(&sink.local.url(), &settings).await;
    daemon.write(&lines(1234, 100)).await;
    let mut top = Top::start(&["--admin", &admin, "--every", "250ms"]);
    top.until("showed", |screen| shown(screen, "delivered") == Some(1234)).await;
    assert!(daemon.stop().await.status.success());
    let screen = top.until_shown("NO ANSWER for ").await;
    assert_eq!(shown(&screen, "delivered"), Some(1234), "the last figures are gone");
    let daemon = Daemon::start(&sink.local.url(), &settings).await;
    daemon.write(&lines(7, 100)).await;
    let screen = top.until("showed the next daemon", |screen| shown(screen, "delivered") == Some(7)).await;
    assert!(!screen.contents().contains("NO ANSWER"), "{}", screen.contents());
    top.press("q");
    assert_eq!(top.ended().await, 0);
    assert!(daemon.stop().await.status.success());
}

// R-T6
#[tokio::test]
async fn without_a_terminal_or_when_asked_to_top_prints_once() {
    let sink = Sink::start(Options::default()).await;
    let daemon = delivering(&sink, 1234).await;
    let output = hydrant().args(["top", "--admin", &daemon.admin]).output().await.unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    assert!(output.status.success() && text.contains("\n  delivered       1,234 · "), "{text}");
    assert!(!text.contains('\x1b'), "{text}");
    let mut top = Top::start(&["--once", "--admin", &daemon.admin]);
    let screen = top.until_shown("process").await;
    assert!(!screen.alternate_screen(), "{}", screen.contents());
    assert_eq!(top.ended().await, 0);
    assert!(daemon.stop().await.status.success());
}

#[tokio::test]
async fn top_without_a_daemon_or_with_a_wrong_address_says_what_would_be_right() {
    let check = async |address: &str, code: i32, expected: &str| {
        let output = hydrant().args(["top", "--admin", address]).output().await.unwrap();
        let error = String::from_utf8(output.stderr).unwrap();
        assert!(output.status.code() == Some(code) && error.contains(expected), "{error}");
    };
    let nobody = "no daemon answers at unix:/nonexistent/admin.sock: No such file or directory (os error 2); \
                  start one, or name its admin.address with --admin\n";
    check("unix:/nonexistent/admin.sock", 1, nobody).await;
    check("nowhere", 2, "unix:PATH").await;
}
