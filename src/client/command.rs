//! A command whose output is stored, if it ends well.

use std::process::{Child, ChildStdout, Stdio};
use std::sync::Arc;

use super::exit::{Exit, Failure};
use super::local::Input;

/// A running command.
pub struct Command {
    text: String,
    child: Child,
}

impl Command {
    /// Starts it in a shell, with our own stdin and stderr.
    ///
    /// # Errors
    /// There is no shell.
    pub fn start(text: &str) -> Result<Self, Failure> {
        let child = std::process::Command::new("/bin/sh")
            .arg("-c")
            .arg(text)
            .stdout(Stdio::piped())
            .spawn()
            .map_err(|error| Failure::new(Exit::Other, format!("run /bin/sh: {error}")))?;
        Ok(Self { text: text.to_owned(), child })
    }

    /// What it prints.
    ///
    /// # Errors
    /// It was asked for before.
    pub fn output(&mut self) -> Result<Input, Failure> {
        let output: Option<ChildStdout> = self.child.stdout.take();
        let output =
            output.ok_or_else(|| Failure::new(Exit::Other, "the command has no output"))?;
        let output: std::os::fd::OwnedFd = output.into();
        Ok(Input::Stream(Arc::new(output.into())))
    }

    /// Waits for its end.
    ///
    /// # Errors
    /// It did not end with 0.
    pub fn wait(mut self) -> Result<(), Failure> {
        let text = &self.text;
        let status = self
            .child
            .wait()
            .map_err(|error| Failure::new(Exit::Other, format!("wait for {text:?}: {error}")))?;
        if status.success() {
            return Ok(());
        }
        Err(Failure::new(Exit::Other, format!("{text:?} ended with {status}; nothing was stored"))
            .hint("see what the command said above"))
    }
}

impl Drop for Command {
    fn drop(&mut self) {
        // One that nobody reads any more; it may have ended by itself.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
