//! The supervisor's socket: agents that connect, their lines in, events out, nothing that blocks.
//! Knows how lines are cut, not what they mean.

use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};

use super::peer::may_command;
use super::wire::{Command, Event, LONGEST_LINE, parse, spell};

/// One agent, a successor that takes over, and people who look; more are turned away.
const MOST_CLIENTS: usize = 8;

/// An agent that leaves this much unread is cut off: it can connect again and is told where things stand.
const MOST_UNREAD: usize = 4 * 1024 * 1024;

/// Read at once from a client: commands are short, but for lines to the child.
const READ_BYTES: usize = 4 * 1024;

/// The socket file of supervisor `id`.
#[must_use]
pub fn socket_path(runtime_dir: &Path, id: &str) -> PathBuf {
    runtime_dir.join(format!("{id}.sock"))
}

/// A path to the socket that is short enough for a socket address (107 bytes) however deep the directory
/// lies. Valid while the returned directory is held.
///
/// # Errors
/// When the directory cannot be opened.
pub fn short_path(runtime_dir: &Path, id: &str) -> io::Result<(File, PathBuf)> {
    let dir = File::open(runtime_dir)?;
    let path = PathBuf::from(format!("/proc/self/fd/{}/{id}.sock", dir.as_raw_fd()));
    Ok((dir, path))
}

/// The listening socket and everybody connected to it.
#[derive(Debug)]
pub struct Control {
    listener: UnixListener,
    path: PathBuf,
    /// The agent that made this supervisor, until it is greeted.
    maker: Option<UnixStream>,
    clients: Vec<Client>,
    ever_served: bool,
}

#[derive(Debug)]
struct Client {
    stream: UnixStream,
    inbox: Vec<u8>,
    outbox: Vec<u8>,
    gone: bool,
    /// Whether it was not told something because it had not read what was said before.
    missed: bool,
}

impl Control {
    /// Listens as supervisor `id`. The directory must be private: whoever may open the socket may stop the
    /// attempt.
    ///
    /// # Errors
    /// When the socket cannot be made.
    pub fn listen(runtime_dir: &Path, id: &str) -> io::Result<Self> {
        let (_dir, path) = short_path(runtime_dir, id)?;
        let listener = UnixListener::bind(path)?;
        listener.set_nonblocking(true)?;
        let path = socket_path(runtime_dir, id);
        Ok(Self { listener, path, maker: None, clients: Vec::new(), ever_served: false })
    }

    /// The same, connected to the agent that made this supervisor: nobody else can have handed its connection over.
    #[must_use]
    pub fn with(mut self, maker: UnixStream) -> Self {
        self.maker = Some(maker);
        self
    }

    /// Whether an agent is connected.
    #[must_use]
    pub fn has_client(&self) -> bool {
        !self.clients.is_empty()
    }

    /// Whether an agent ever connected.
    #[must_use]
    pub fn was_ever_served(&self) -> bool {
        self.ever_served
    }

    /// What to poll: descriptors and whether they also wait for room to write.
    #[must_use]
    pub fn descriptors(&self) -> Vec<(BorrowedFd<'_>, bool)> {
        let listeners = std::iter::once(self.listener.as_fd()).chain(self.maker.as_ref().map(AsFd::as_fd));
        let clients = self.clients.iter().map(|client| (client.stream.as_fd(), !client.outbox.is_empty()));
        listeners.map(|fd| (fd, false)).chain(clients).collect()
    }

    /// Takes in whoever waits, greets them with `greeting`, and returns all commands that arrived. Whoever was left out and
    /// has caught up is told the second part of the greeting.
    pub fn serve(&mut self, greeting: impl Fn() -> [Event; 2]) -> Vec<Command> {
        if let Some(maker) = self.maker.take() {
            self.take_in(maker, &greeting);
        }
        while let Ok((stream, _)) = self.listener.accept() {
            if self.clients.len() < MOST_CLIENTS && may_command(&stream) {
                self.take_in(stream, &greeting);
            }
        }
        let commands = self.clients.iter_mut().flat_map(Client::read).collect();
        self.flush();
        if self.clients.iter().all(|client| !client.missed) {
            return commands;
        }
        // A child may wait for what the last word that was left out asks for: then there is no later one.
        let [_, standing] = greeting();
        for client in self.clients.iter_mut().filter(|client| client.missed && client.outbox.is_empty()) {
            client.missed = false;
            client.tell(&spell(&standing));
        }
        self.flush();
        commands
    }

    fn take_in(&mut self, stream: UnixStream, greeting: &impl Fn() -> [Event; 2]) {
        if stream.set_nonblocking(true).is_err() {
            return;
        }
        let mut client = Client { stream, inbox: Vec::new(), outbox: Vec::new(), gone: false, missed: false };
        for event in greeting() {
            client.tell(&spell(&event));
        }
        self.clients.push(client);
        self.ever_served = true;
    }

    /// Tells everybody.
    pub fn broadcast(&mut self, event: &Event) {
        if self.clients.is_empty() {
            return;
        }
        let line = spell(event);
        for client in &mut self.clients {
            client.tell(&line);
        }
        self.flush();
    }

    /// Tells everybody who has read what was said before; the others learn it from a later, newer one.
    pub fn broadcast_lossy(&mut self, event: &Event) {
        let line = spell(event);
        for client in &mut self.clients {
            if client.outbox.is_empty() {
                client.tell(&line);
            } else {
                client.missed = true;
            }
        }
        self.flush();
    }

    /// Whether everything said has left.
    #[must_use]
    pub fn is_flushed(&self) -> bool {
        self.clients.iter().all(|client| client.outbox.is_empty())
    }

    /// Writes what can be written and forgets who is gone.
    pub fn flush(&mut self) {
        for client in &mut self.clients {
            client.flush();
        }
        self.clients.retain(|client| !client.gone);
    }
}

impl Drop for Control {
    fn drop(&mut self) {
        let _ = fs::remove_file(&self.path);
    }
}

impl Client {
    fn read(&mut self) -> Vec<Command> {
        let mut chunk = [0; READ_BYTES];
        loop {
            match self.stream.read(&mut chunk) {
                Ok(0) => {
                    self.gone = true;
                    break;
                }
                Ok(read) => self.inbox.extend_from_slice(&chunk[..read]),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => {
                    self.gone |= error.kind() != io::ErrorKind::WouldBlock;
                    break;
                }
            }
            if self.inbox.len() > LONGEST_LINE {
                self.gone = true;
                break;
            }
        }
        self.take_lines()
    }

    fn take_lines(&mut self) -> Vec<Command> {
        let Some(last) = self.inbox.iter().rposition(|byte| *byte == b'\n') else { return Vec::new() };
        let whole: Vec<u8> = self.inbox.drain(..=last).collect();
        let mut commands = Vec::new();
        for line in whole.split(|byte| *byte == b'\n').filter(|line| !line.is_empty()) {
            match parse(line) {
                Ok(command) => commands.push(command),
                // Somebody who speaks another language; what was understood before it stands.
                Err(_) => self.gone = true,
            }
        }
        commands
    }

    fn tell(&mut self, line: &[u8]) {
        self.outbox.extend_from_slice(line);
        self.gone |= self.outbox.len() > MOST_UNREAD;
    }

    fn flush(&mut self) {
        while !self.gone && !self.outbox.is_empty() {
            match self.stream.write(&self.outbox) {
                Ok(0) => self.gone = true,
                Ok(written) => drop(self.outbox.drain(..written)),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => {
                    self.gone |= error.kind() != io::ErrorKind::WouldBlock;
                    break;
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io::BufRead;

    use super::*;

    fn connected(dir: &Path) -> (Control, UnixStream) {
        let control = Control::listen(dir, "a1").unwrap();
        let client = UnixStream::connect(socket_path(dir, "a1")).unwrap();
        (control, client)
    }

    fn greeting() -> [Event; 2] {
        [Event::Hello { version: 1, id: "a1".to_owned() }, Event::StdinClosed]
    }

    #[test]
    fn lines_are_cut_and_half_a_line_waits() {
        let dir = tempfile::tempdir().unwrap();
        let (mut control, mut client) = connected(dir.path());
        client.write_all(b"{\"cmd\":\"status\"}\n{\"cmd\":\"close").unwrap();
        assert_eq!(control.serve(greeting), [Command::Status]);
        client.write_all(b"_stdin\"}\n").unwrap();
        assert_eq!(control.serve(greeting), [Command::CloseStdin]);
        assert_eq!(control.serve(greeting), []);
    }

    #[test]
    fn an_agent_is_greeted_and_told_what_happens() {
        let dir = tempfile::tempdir().unwrap();
        let (mut control, client) = connected(dir.path());
        control.serve(greeting);
        control.broadcast(&Event::Progress { channel: super::super::segments::Channel::Stdout, len: 7 });
        let lines: Vec<String> = io::BufReader::new(client).lines().take(3).map(Result::unwrap).collect();
        assert_eq!(lines[0], r#"{"event":"hello","version":1,"id":"a1"}"#);
        assert_eq!(lines[2], r#"{"event":"progress","channel":"stdout","len":7}"#);
    }

    #[test]
    fn the_agent_that_made_it_need_not_connect() {
        let dir = tempfile::tempdir().unwrap();
        let (maker, mut agent) = UnixStream::pair().unwrap();
        let mut control = Control::listen(dir.path(), "a1").unwrap().with(maker);
        assert_eq!((control.descriptors().len(), control.was_ever_served()), (2, false));
        agent.write_all(b"{\"cmd\":\"status\"}\n").unwrap();
        assert_eq!(control.serve(greeting), [Command::Status]);
        assert!(control.was_ever_served());
        let line = io::BufReader::new(agent).lines().next().unwrap().unwrap();
        assert_eq!(line, r#"{"event":"hello","version":1,"id":"a1"}"#);
    }

    #[test]
    fn one_who_was_left_out_is_told_where_things_stand_once_it_has_read() {
        let dir = tempfile::tempdir().unwrap();
        let (mut control, client) = connected(dir.path());
        control.serve(greeting);
        let progress = |len| Event::Progress { channel: super::super::segments::Channel::Stdout, len };
        let mut len = 0;
        while control.is_flushed() {
            len += 1;
            control.broadcast_lossy(&progress(len));
        }
        control.broadcast_lossy(&progress(len + 1));
        client.set_read_timeout(Some(std::time::Duration::from_secs(10))).unwrap();
        let mut lines = io::BufReader::new(client).lines().map(Result::unwrap);
        let last = String::from_utf8(spell(&progress(len))).unwrap();
        // What was said leaves as it is read.
        while lines.next().unwrap() != last.trim_end() {
            control.serve(greeting);
        }
        control.serve(greeting);
        assert_eq!(lines.next().unwrap(), r#"{"event":"stdin_closed"}"#);
    }

    #[test]
    fn one_who_speaks_another_language_is_cut_off_and_the_rest_stay() {
        let dir = tempfile::tempdir().unwrap();
        let (mut control, mut stranger) = connected(dir.path());
        let mut agent = UnixStream::connect(socket_path(dir.path(), "a1")).unwrap();
        stranger.write_all(b"GET / HTTP/1.1\n\n").unwrap();
        agent.write_all(b"{\"cmd\":\"status\"}\n").unwrap();
        assert_eq!(control.serve(greeting), [Command::Status]);
        assert_eq!(control.clients.len(), 1);
    }

    #[test]
    fn the_socket_works_in_a_very_deep_directory_and_is_removed() {
        let dir = tempfile::tempdir().unwrap();
        let deep = dir.path().join("d".repeat(100)).join("e".repeat(100));
        fs::create_dir_all(&deep).unwrap();
        let control = Control::listen(&deep, "a1").unwrap();
        let (_held, path) = short_path(&deep, "a1").unwrap();
        UnixStream::connect(path).unwrap();
        drop(control);
        assert!(!socket_path(&deep, "a1").exists());
    }

    #[test]
    fn an_agent_that_reads_nothing_is_cut_off() {
        let dir = tempfile::tempdir().unwrap();
        let (mut control, _client) = connected(dir.path());
        control.serve(greeting);
        let id = "x".repeat(64 * 1024);
        for _ in 0..=2 * MOST_UNREAD / id.len() {
            control.broadcast(&Event::Hello { version: 1, id: id.clone() });
        }
        assert!(!control.has_client());
    }
}
