//! Questions to the user, on the terminal that the program belongs to.
//!
//! They wait as all else does that waits here, and not in the kernel: whoever gives up, because of a signal for
//! instance, drops the question, and the terminal is as it was.

use std::fs::File;
use std::io::{self, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;

use nix::fcntl::OFlag;
use nix::sys::termios::{LocalFlags, SetArg, Termios, tcgetattr, tcsetattr};
use tokio::net::unix::pipe::Receiver;
use zeroize::Zeroizing;

/// Bytes of the longest answer; more does not fit into a line of a terminal.
///
/// *Source*: termios(3), "Canonical and noncanonical mode".
const ANSWER_BYTES_MAX: usize = 4096;

/// Whether what is typed can be seen.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Echo {
    /// It can.
    Shown,
    /// It cannot.
    Hidden,
}

/// Asks, and gives the line that was answered, without its end.
///
/// # Errors
/// There is no terminal, or the answer is its end (Ctrl-D).
pub async fn ask(question: &str, echo: Echo) -> io::Result<Zeroizing<String>> {
    let mut asked = Asked::begin(question, echo)?;
    // To tokio a pipe is whatever can be waited for and read.
    let answers = Receiver::from_file_unchecked(asked.terminal.try_clone()?)?;
    // It does not grow, so that nothing of a secret stays behind; on the heap, because a future holds the rest, and
    // each request of a transfer is one that could have to ask.
    let mut room = Zeroizing::new(vec![0; ANSWER_BYTES_MAX]);
    let read = loop {
        answers.readable().await?;
        match answers.try_read(&mut room[..]) {
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {} // Woken for nothing.
            read => break read?,
        }
    };
    if read == 0 {
        return Err(io::ErrorKind::UnexpectedEof.into());
    }
    asked.is_answered = true;
    let answer = String::from_utf8_lossy(&room[..read]);
    Ok(Zeroizing::new(answer.trim_end_matches(['\r', '\n']).to_owned()))
}

/// A question that is open. Dropped, it leaves the terminal as it was, at the start of a line.
struct Asked {
    terminal: File,
    before: Option<Termios>,
    is_answered: bool,
}

impl Asked {
    #[expect(clippy::disallowed_methods, reason = "the user's own terminal")]
    fn begin(question: &str, echo: Echo) -> io::Result<Self> {
        // Opened anew, so that not to wait concerns nobody else who has the terminal open.
        let flags = (OFlag::O_NONBLOCK | OFlag::O_NOCTTY).bits();
        let terminal =
            File::options().read(true).write(true).custom_flags(flags).open("/dev/tty")?;
        let mut asked = Self { terminal, before: None, is_answered: false };
        if echo == Echo::Hidden {
            let mut mode = tcgetattr(&asked.terminal)?;
            asked.before = Some(mode.clone());
            mode.local_flags.remove(LocalFlags::ECHO);
            mode.local_flags.insert(LocalFlags::ECHONL);
            tcsetattr(&asked.terminal, SetArg::TCSAFLUSH, &mode)?;
        }
        asked.terminal.write_all(question.as_bytes())?;
        Ok(asked)
    }
}

impl Drop for Asked {
    fn drop(&mut self) {
        // Half a secret is not for whoever reads next.
        let when = if self.is_answered { SetArg::TCSANOW } else { SetArg::TCSAFLUSH };
        if let Some(before) = &self.before {
            let _ = tcsetattr(&self.terminal, when, before); // Of a terminal that is gone.
        }
        if !self.is_answered {
            let _ = self.terminal.write_all(b"\n");
        }
    }
}
