//! Starting the command, its daemons and its guests, and looking for what they leave.

use std::io::{BufRead, BufReader, Read, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use rustix::process::{kill_process, Pid, Signal};
use tempfile::TempDir;

/// Nothing here takes longer unless it hangs.
pub const HANG: Duration = Duration::from_secs(60);

/// What a command left behind.
#[derive(Debug)]
pub struct Output {
    pub status: i32,
    pub stdout: String,
    pub stderr: String,
}

impl Output {
    /// The only line on standard error of a command that failed.
    pub fn error_line(&self) -> &str {
        let line = self.stderr.strip_suffix('\n').unwrap_or(&self.stderr);
        assert!(line.starts_with("tessera: "), "no error line: {self:?}");
        assert!(!line.contains('\n'), "more than one line: {self:?}");
        line
    }
}

/// A started `tessera`.
pub struct Running {
    child: Child,
    stdin: Option<ChildStdin>,
    stdout: Reader,
    stderr: Reader,
}

struct Reader {
    text: Arc<Mutex<String>>,
    thread: Option<JoinHandle<()>>,
}

impl Reader {
    fn new(from: impl Read + Send + 'static) -> Self {
        let text = Arc::new(Mutex::new(String::new()));
        let into = text.clone();
        let read = move || {
            let mut from = BufReader::new(from);
            let mut line = Vec::new();
            while from.read_until(b'\n', &mut line).is_ok_and(|count| count > 0) {
                into.lock().expect("no panic").push_str(&String::from_utf8_lossy(&line));
                line.clear();
            }
        };
        Reader { text, thread: Some(std::thread::spawn(read)) }
    }

    fn text(&self) -> String {
        self.text.lock().expect("no panic").clone()
    }

    fn whole(&mut self) -> String {
        if let Some(thread) = self.thread.take() {
            thread.join().expect("no panic");
        }
        self.text()
    }
}

/// Starts `tessera` with these arguments.
pub fn start(arguments: &[&str]) -> Running {
    start_with_stdin(arguments, Stdio::null())
}

pub fn start_with_stdin(arguments: &[&str], stdin: Stdio) -> Running {
    let mut child = Command::new(env!("CARGO_BIN_EXE_tessera"))
        .args(arguments)
        .env_remove("TESSERA_LOG")
        .env_remove("TESSERA_HOST")
        .stdin(stdin)
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("tessera starts");
    let stdin = child.stdin.take();
    let stdout = Reader::new(child.stdout.take().expect("piped"));
    let stderr = Reader::new(child.stderr.take().expect("piped"));
    Running { child, stdin, stdout, stderr }
}

/// Runs `tessera` with these arguments to its end.
pub fn run(arguments: &[&str]) -> Output {
    start(arguments).end()
}

impl Running {
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    pub fn signal(&self, signal: Signal) {
        send_signal(self.pid(), signal);
    }

    /// The process ids of its children.
    pub fn children(&self) -> Vec<u32> {
        children(self.pid())
    }

    /// How much it has written to standard output.
    pub fn stdout_bytes(&self) -> usize {
        self.stdout.text.lock().expect("no panic").len()
    }

    pub fn stderr(&self) -> String {
        self.stderr.text()
    }

    pub fn type_in(&mut self, text: &[u8]) {
        let stdin = self.stdin.as_mut().expect("piped");
        stdin.write_all(text).and_then(|()| stdin.flush()).expect("standard input is read");
    }

    /// Waits until standard error holds `part`.
    pub fn await_stderr(&self, part: &str) {
        until(&format!("{part:?} on standard error"), || self.stderr().contains(part));
    }

    /// Waits for its end.
    pub fn end(mut self) -> Output {
        self.stdin = None;
        let begin = Instant::now();
        let status = loop {
            match self.child.try_wait().expect("wait") {
                Some(status) => break status,
                None if begin.elapsed() > HANG => panic!("tessera hangs; it said {}", self.stderr()),
                None => std::thread::sleep(Duration::from_millis(5)),
            }
        };
        let status = status.code().unwrap_or(-1);
        Output { status, stdout: self.stdout.whole(), stderr: self.stderr.whole() }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        // Only what a failed test leaves; it may have ended.
        let _ended = self.child.kill();
        let _ended = self.child.wait();
    }
}

/// Sends a signal; the process may have ended.
pub fn send_signal(pid: u32, signal: Signal) {
    let sent = kill_process(Pid::from_raw(pid as i32).expect("pid"), signal);
    assert!(matches!(sent, Ok(()) | Err(rustix::io::Errno::SRCH)), "{sent:?}");
}

/// Waits until `condition` holds.
pub fn until(what: &str, mut condition: impl FnMut() -> bool) {
    let begin = Instant::now();
    while !condition() {
        assert!(begin.elapsed() < HANG, "waited in vain for {what}");
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// A daemon on a free port of this machine.
pub struct Daemon {
    running: Running,
    pub address: String,
}

impl Daemon {
    pub fn start() -> Daemon {
        Daemon::start_with(&[])
    }

    pub fn start_with(more: &[&str]) -> Daemon {
        let mut arguments = vec!["node"];
        if !more.contains(&"--listen") {
            arguments.extend(["--listen", "127.0.0.1:0"]);
        }
        arguments.extend(more);
        let running = start(&arguments);
        running.await_stderr("listening on ");
        let stderr = running.stderr();
        let address = stderr.split("listening on ").nth(1).expect("awaited");
        let address = address.split_whitespace().next().expect("address").trim_matches('"').to_owned();
        Daemon { running, address }
    }

    fn pid(&self) -> u32 {
        self.running.pid()
    }

    /// How many descriptors it has open.
    pub fn descriptors(&self) -> usize {
        std::fs::read_dir(format!("/proc/{}/fd", self.pid())).expect("its descriptors").count()
    }

    pub fn log(&self) -> String {
        self.running.stderr()
    }

    pub fn await_log(&self, part: &str) {
        self.running.await_stderr(part);
    }

    /// The process ids of its workers.
    pub fn workers(&self) -> Vec<u32> {
        children(self.pid())
    }

    /// The only worker, once there is one.
    pub fn worker(&self) -> u32 {
        until("a worker", || self.workers().len() == 1);
        self.workers()[0]
    }

    /// Ends it as a service manager does, and checks that nothing is left.
    pub fn stop(self) -> Output {
        let workers = self.workers();
        self.running.signal(Signal::TERM);
        let output = self.running.end();
        assert_eq!(output.status, 0, "{output:?}");
        workers.into_iter().for_each(|worker| assert!(!exists(worker), "worker {worker} is left"));
        output
    }

    /// Kills it without warning.
    pub fn kill(self) {
        self.running.signal(Signal::KILL);
        self.running.end();
    }
}

/// Whether the process is there, and not only its exit status.
pub fn exists(pid: u32) -> bool {
    match std::fs::read_to_string(format!("/proc/{pid}/stat")) {
        Ok(stat) => !stat.rsplit(')').next().unwrap_or_default().trim_start().starts_with('Z'),
        Err(_) => false,
    }
}

fn children(parent: u32) -> Vec<u32> {
    let parent_of = |pid: u32| -> Option<u32> {
        let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
        stat.rsplit(')').next()?.split_whitespace().nth(1)?.parse().ok()
    };
    let pids = std::fs::read_dir("/proc").expect("/proc").flatten();
    let pids = pids.filter_map(|entry| entry.file_name().to_str()?.parse::<u32>().ok());
    pids.filter(|&pid| parent_of(pid) == Some(parent) && exists(pid)).collect()
}

/// A folder with a guest's program in it.
pub struct Program {
    folder: TempDir,
}

impl Program {
    pub fn new(code: &[u8]) -> Program {
        let folder = tempfile::tempdir().expect("tempdir");
        std::fs::write(folder.path().join("program"), elf(code)).expect("write");
        Program { folder }
    }

    pub fn path(&self) -> String {
        text(&self.folder.path().join("program"))
    }

    /// A path in the folder for something else.
    pub fn beside(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }
}

pub fn text(path: &Path) -> String {
    path.to_str().expect("UTF-8").into()
}

/// An ELF executable with this code at 1 MiB, its entry.
fn elf(code: &[u8]) -> Vec<u8> {
    const AT: u64 = 1 << 20;
    let mut file = Vec::new();
    let mut put = |bytes: &[u8]| file.extend_from_slice(bytes);
    put(b"\x7fELF\x02\x01\x01\0\0\0\0\0\0\0\0\0");
    put(&2u16.to_le_bytes());
    put(&62u16.to_le_bytes());
    put(&1u32.to_le_bytes());
    [AT, 64, 0].iter().for_each(|value| put(&value.to_le_bytes()));
    put(&0u32.to_le_bytes());
    [64u16, 56, 1, 64, 0, 0].iter().for_each(|value| put(&value.to_le_bytes()));
    [1u32, 7].iter().for_each(|value| put(&value.to_le_bytes()));
    let bytes = code.len() as u64;
    [120, AT, AT, bytes, bytes, 4096].iter().for_each(|value| put(&value.to_le_bytes()));
    put(code);
    file
}

/// Instructions of the guests, for long mode.
pub mod code {
    /// Writes a byte to a port.
    pub fn out(port: u16, byte: u8) -> Vec<u8> {
        let [low, high] = port.to_le_bytes();
        vec![0x66, 0xba, low, high, 0xb0, byte, 0xee]
    }

    /// Writes to the console.
    pub fn print(text: &str) -> Vec<u8> {
        text.bytes().flat_map(|byte| out(0xe9, byte)).collect()
    }

    /// Halts for ever.
    pub fn halt() -> Vec<u8> {
        vec![0xf4, 0xeb, 0xfd]
    }

    /// Ends with a code.
    pub fn exit(code: u32) -> Vec<u8> {
        let mut bytes = vec![0xb8];
        bytes.extend(code.to_le_bytes());
        bytes.extend([0x66, 0xba, 0xf4, 0x00, 0xef]);
        bytes.extend(halt());
        bytes
    }

    /// Copies the serial line's input to the console up to a `q`, and ends.
    pub fn echo() -> Vec<u8> {
        let mut bytes = vec![
            0x66, 0xba, 0xfd, 0x03, // mov dx, 0x3fd (line status)
            0xec, 0xa8, 0x01, 0x74, 0xf7, // in al, dx; test al, 1; jz to the start
            0x66, 0xba, 0xf8, 0x03, 0xec, // mov dx, 0x3f8; in al, dx
            0x66, 0xba, 0xe9, 0x00, 0xee, // mov dx, 0xe9; out dx, al
            0x3c, b'q', 0x75, 0xe9, // cmp al, 'q'; jne to the start
        ];
        bytes.extend(exit(0));
        bytes
    }

    /// Writes to the console for ever.
    pub fn flood() -> Vec<u8> {
        vec![0x66, 0xba, 0xe9, 0x00, 0xb0, b'x', 0xee, 0xeb, 0xfd]
    }
}
