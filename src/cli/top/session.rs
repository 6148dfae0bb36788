//! A session at the terminal: what happens changes what is shown. Pure.

use std::ops::ControlFlow;
use std::time::Instant;

use crossterm::event::{Event as Input, KeyCode, KeyEvent, KeyEventKind, KeyModifiers};
use ratatui::Frame;

use super::model::{Look, Model};
use super::theme::Theme;
use super::view::{self, Manner};

/// What happens.
#[derive(Debug)]
pub enum Event {
    /// The daemon was looked at; what was seen, or why nothing was.
    Looked(Result<Box<Look>, String>),
    /// The user pressed a key, or the terminal has another size.
    Input(Input),
    /// Time went by.
    Tick,
    /// A signal asks for the end.
    Ended,
}

/// See the module.
#[derive(Debug)]
pub struct Session {
    model: Model,
    /// What the screen holds still at, and since when. The daemon is looked at all the same, so
    /// that nothing is missing from the plots afterwards.
    paused: Option<(Model, Instant)>,
    help: bool,
    theme: Theme,
}

impl Session {
    /// Begins with what was seen first.
    #[must_use]
    pub fn new(model: Model, theme: Theme) -> Self {
        Self { model, paused: None, help: false, theme }
    }

    /// Draws what is to be seen at `now`.
    pub fn draw(&self, frame: &mut Frame<'_>, now: Instant) {
        let manner = Manner { theme: self.theme, paused: self.paused.is_some(), help: self.help };
        match &self.paused {
            Some((model, since)) => view::draw(frame, model, manner, *since),
            None => view::draw(frame, &self.model, manner, now),
        }
    }

    /// Takes in what happened; breaks off where that ends the session.
    pub fn apply(&mut self, event: Event, now: Instant) -> ControlFlow<()> {
        match event {
            Event::Looked(Ok(look)) => self.model.answered(*look, now),
            Event::Looked(Err(why)) => self.model.failed(why),
            Event::Input(Input::Key(key)) if key.kind == KeyEventKind::Press => return self.press(key, now),
            // Drawing finds out by itself what size there is.
            Event::Input(_) | Event::Tick => {}
            Event::Ended => return ControlFlow::Break(()),
        }
        ControlFlow::Continue(())
    }

    fn press(&mut self, key: KeyEvent, now: Instant) -> ControlFlow<()> {
        let interrupt = key.code == KeyCode::Char('c') && key.modifiers.contains(KeyModifiers::CONTROL);
        if interrupt || matches!(key.code, KeyCode::Char('q') | KeyCode::Esc) {
            return ControlFlow::Break(());
        }
        if key.code == KeyCode::Char('p') {
            let shown = (self.model.clone(), now);
            self.paused = if self.paused.is_none() { Some(shown) } else { None };
        }
        self.help ^= key.code == KeyCode::Char('?');
        ControlFlow::Continue(())
    }
}
