//! How things look. Pure.

use ratatui::style::{Color, Modifier, Style};

/// Styles by meaning. Colours are the terminal's sixteen, and say nothing that words don't.
#[derive(Debug, Clone, Copy)]
pub struct Theme {
    /// Whether there are colours.
    pub colour: bool,
}

impl Theme {
    fn fg(self, colour: Color) -> Style {
        if self.colour { Style::new().fg(colour) } else { Style::new() }
    }

    /// Of what is as it should be.
    #[must_use]
    pub fn good(self) -> Style {
        self.fg(Color::Green)
    }

    /// Of what may pass by itself.
    #[must_use]
    pub fn warning(self) -> Style {
        self.fg(Color::Yellow).add_modifier(Modifier::BOLD)
    }

    /// Of what asks for a human.
    #[must_use]
    pub fn problem(self) -> Style {
        self.fg(Color::Red).add_modifier(Modifier::BOLD)
    }

    /// Of plots and gauges.
    #[must_use]
    pub fn plot(self) -> Style {
        self.fg(Color::Cyan)
    }

    /// Of names, frames and what is unknown.
    #[must_use]
    pub fn quiet(self) -> Style {
        Style::new().add_modifier(Modifier::DIM)
    }

    /// Of a matter of a level in `/status`.
    #[must_use]
    pub fn level(self, level: &str) -> Style {
        match level {
            "ok" => self.good(),
            "warning" => self.warning(),
            "problem" => self.problem(),
            _ => Style::new(),
        }
    }
}
