//! The bar on a terminal.

use std::io::IsTerminal as _;
use std::time::Duration;

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

/// Progress of one file: bytes, rate, time left, and what is being waited for. Nothing at all unless
/// stderr is a terminal.
pub struct Bar(ProgressBar);

impl Bar {
    /// A bar for `name`, which is already escaped; `bytes` if the size is known.
    pub fn new(name: String, bytes: Option<u64>, quiet: bool) -> Self {
        let visible = !quiet && std::io::stderr().is_terminal();
        let target =
            if visible { ProgressDrawTarget::stderr() } else { ProgressDrawTarget::hidden() };
        let bar = ProgressBar::with_draw_target(bytes, target).with_message(name);
        bar.set_style(style(bytes.is_some()));
        if visible {
            bar.enable_steady_tick(Duration::from_millis(200));
        }
        Self(bar)
    }

    /// The size has become known.
    pub fn length(&self, bytes: u64) {
        self.0.set_length(bytes);
        self.0.set_style(style(true));
    }

    /// So many bytes more.
    pub fn advance(&self, bytes: usize) {
        self.0.inc(bytes as u64);
    }

    /// What is being waited for.
    pub fn say(&self, what: &'static str) {
        self.0.set_prefix(what);
    }

    /// Takes the bar away; what came of it is said on a line of its own.
    pub fn clear(&self) {
        self.0.finish_and_clear();
    }
}

fn style(is_known: bool) -> ProgressStyle {
    let template = if is_known {
        "{wide_msg} {percent:>3}% {bytes:>11} {binary_bytes_per_sec:>13} {eta:>4} {prefix}"
    } else {
        "{wide_msg} {bytes:>11} {binary_bytes_per_sec:>13} {elapsed:>4} {prefix}"
    };
    ProgressStyle::with_template(template).unwrap_or_else(|_| ProgressStyle::default_bar())
}
