//! Orders to give a copy up that take their time: every `Invalidate` is held for up to some microseconds on its way to a
//! node, while everything else goes past it.
//!
//! The protocol allows for that: nothing else is said about a page while a transaction about it is under way.

use std::io::{Read, Result, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::sync::mpsc::{channel, Receiver, RecvTimeoutError, Sender};
use std::time::{Duration, Instant};

use tessera_dsm::protocol::Message;

use crate::cluster::Random;
use crate::frames::first_frame;

/// A frame, and when it is to go on.
type Held = (Instant, Vec<u8>);

/// Gives a stream from which all can be read that comes on `stream`, invalidations late by up to `longest`.
pub fn invalidations(stream: &TcpStream, longest: Duration, seed: u64) -> TcpStream {
    let listener = TcpListener::bind("127.0.0.1:0").expect("loopback");
    let near = TcpStream::connect(listener.local_addr().expect("bound")).expect("loopback");
    let (far, _) = listener.accept().expect("loopback");
    far.set_nodelay(true).expect("a socket");
    let from = stream.try_clone().expect("a socket");
    let (hold, held) = channel();
    std::thread::spawn(move || {
        let mut random = Random(seed);
        // However it ends, it is the end of the connection.
        let _ = sort(from, &hold, || longest.mul_f64(random.below(1000) as f64 / 1000.0));
    });
    std::thread::spawn(move || {
        let mut far = far;
        let _ = forward(&held, &mut far);
        let _ = far.shutdown(Shutdown::Both);
    });
    near
}

/// Takes frames off the stream and says when each is to go on.
fn sort(mut from: TcpStream, hold: &Sender<Held>, mut delay: impl FnMut() -> Duration) -> Result<()> {
    let (mut bytes, mut fresh) = (Vec::new(), vec![0; 1 << 16]);
    loop {
        let count = from.read(&mut fresh)?;
        if count == 0 {
            return Ok(());
        }
        bytes.extend_from_slice(&fresh[..count]);
        while let Some((frame, length)) = first_frame(&bytes) {
            let frame_bytes: Vec<u8> = bytes.drain(..length).collect();
            let late = matches!(frame.message, Message::Invalidate { .. });
            let due = Instant::now() + if late { delay() } else { Duration::ZERO };
            if hold.send((due, frame_bytes)).is_err() {
                return Ok(());
            }
        }
    }
}

/// Passes each frame on when its time has come; those that are due at once keep their order.
fn forward(frames: &Receiver<Held>, to: &mut TcpStream) -> Result<()> {
    let mut waiting: Vec<Held> = Vec::new();
    loop {
        let now = Instant::now();
        let next = waiting.iter().map(|(due, _)| due.saturating_duration_since(now)).min();
        match frames.recv_timeout(next.unwrap_or(Duration::from_secs(3600))) {
            Ok((due, bytes)) if due <= Instant::now() => to.write_all(&bytes)?,
            Ok(held) => waiting.push(held),
            Err(RecvTimeoutError::Timeout) => {}
            Err(RecvTimeoutError::Disconnected) => return Ok(()),
        }
        for (_, bytes) in waiting.extract_if(.., |(due, _)| *due <= Instant::now()) {
            to.write_all(&bytes)?;
        }
    }
}
