//! The terminal, taken and given back.

use std::io;

use ratatui::{DefaultTerminal, Frame};

/// The whole terminal until it is dropped. A panic gives it back too, before it is reported.
#[derive(Debug)]
pub struct Screen(DefaultTerminal);

impl Screen {
    /// Takes the terminal.
    ///
    /// # Errors
    ///
    /// What the system said; the terminal is then as it was.
    pub fn take() -> io::Result<Self> {
        ratatui::try_init().map(Self).inspect_err(|_| give_back())
    }

    /// Draws all of it.
    ///
    /// # Errors
    ///
    /// What the system said of writing to the terminal.
    pub fn draw(&mut self, draw: impl FnOnce(&mut Frame<'_>)) -> io::Result<()> {
        self.0.draw(draw).map(drop)
    }
}

impl Drop for Screen {
    fn drop(&mut self) {
        // A terminal that is gone needs no cursor.
        self.0.show_cursor().ok();
        // After a panic that is done, and once more would move the cursor over its report.
        if !std::thread::panicking() {
            give_back();
        }
    }
}

fn give_back() {
    // A terminal that can't be given back is gone.
    ratatui::try_restore().ok();
}
