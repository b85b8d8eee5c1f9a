//! The machine protocol of QEMU (docs/interop/qmp-spec of QEMU): one JSON object a line over a unix socket.

use std::io::{BufRead, BufReader, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{bail, Context, Result};
use serde_json::{json, Value};

/// Longer than QEMU takes for any order: a hang.
const LIMIT: Duration = Duration::from_secs(60);
/// Events that may come before an answer.
const EVENTS_MAX: usize = 1000;

/// A connection to a running QEMU.
pub struct Qmp {
    from: BufReader<UnixStream>,
    to: UnixStream,
}

impl Qmp {
    /// Connects to the socket at this path as soon as it is there.
    ///
    /// # Errors
    /// When nobody listens there before the deadline, or it is not QEMU.
    pub fn connect(path: &Path, deadline: Instant) -> Result<Self> {
        let to = loop {
            match UnixStream::connect(path) {
                Ok(stream) => break stream,
                Err(error) if Instant::now() >= deadline => {
                    return Err(error).with_context(|| format!("QEMU does not listen at {}", path.display()))
                }
                Err(_) => std::thread::sleep(Duration::from_millis(20)),
            }
        };
        to.set_read_timeout(Some(LIMIT))?;
        to.set_write_timeout(Some(LIMIT))?;
        let mut qmp = Self { from: BufReader::new(to.try_clone()?), to };
        qmp.line().context("QEMU's greeting")?;
        qmp.order("qmp_capabilities", &json!({}))?;
        Ok(qmp)
    }

    /// Gives an order; its answer.
    ///
    /// # Errors
    /// When QEMU refuses, with its words, or does not answer.
    pub fn order(&mut self, name: &str, arguments: &Value) -> Result<Value> {
        let order = json!({ "execute": name, "arguments": arguments });
        writeln!(self.to, "{order}").with_context(|| format!("giving QEMU the order {name}"))?;
        for _ in 0..EVENTS_MAX {
            let mut said = self.line().with_context(|| format!("waiting for QEMU's answer to {name}"))?;
            if let Some(error) = said.get("error") {
                bail!("QEMU refuses {name}: {}", error["desc"].as_str().unwrap_or("no reason given"));
            }
            if let Some(answer) = said.get_mut("return") {
                return Ok(answer.take());
            }
        }
        bail!("QEMU says much, but does not answer {name}")
    }

    fn line(&mut self) -> Result<Value> {
        let mut line = String::new();
        let bytes = self.from.read_line(&mut line)?;
        anyhow::ensure!(bytes > 0, "QEMU has ended");
        serde_json::from_str(&line).with_context(|| format!("QEMU said {line:?}"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cleanup::TemporaryDir;
    use std::os::unix::net::UnixListener;

    #[test]
    fn answers_are_found_among_events_and_refusals_have_their_words() {
        let dir = TemporaryDir::new("tessera-qmp-test").unwrap();
        let path = dir.path().join("qmp");
        let listener = UnixListener::bind(&path).unwrap();
        let qemu = std::thread::spawn(move || {
            let (mut stream, _) = listener.accept().unwrap();
            let answers = [
                "{\"QMP\":{}}\n",
                "{\"return\":{}}\n",
                "{\"event\":\"STOP\"}\n{\"return\":{\"status\":\"active\"}}\n",
                "{\"error\":{\"desc\":\"no such thing\"}}\n",
            ];
            let mut orders = BufReader::new(stream.try_clone().unwrap()).lines();
            for (number, answer) in answers.into_iter().enumerate() {
                if number > 0 {
                    orders.next().unwrap().unwrap();
                }
                stream.write_all(answer.as_bytes()).unwrap();
            }
        });
        let mut qmp = Qmp::connect(&path, Instant::now() + LIMIT).unwrap();
        assert_eq!(qmp.order("query-migrate", &json!({})).unwrap()["status"], "active");
        let refused = qmp.order("nonsense", &json!({})).unwrap_err().to_string();
        assert!(refused.contains("nonsense: no such thing"), "{refused}");
        qemu.join().unwrap();
        assert!(qmp.order("late", &json!({})).is_err());
    }
}
