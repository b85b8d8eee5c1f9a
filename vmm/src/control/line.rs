//! A control connection between two nodes that outlives its TCP connections: frames from any thread, to one.
//!
//! A frame is as in [`super::frame`]: a length and a body. The body begins with the two positions of a
//! [session](tessera_dsm::link::session), 8 bytes; one with nothing else only confirms. When a connection breaks,
//! frames wait, and whoever reads the line sees to a new one ([`Line::redial`], [`Line::await_offer`]). What was sent
//! and not received is sent again, so that every frame comes once and in order as long as the line lives.

use std::io::{self, Read, Write};
use std::net::TcpStream;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use rustix::net::SendFlags;
use serde::de::DeserializeOwned;
use serde::Serialize;
use tessera_dsm::link::session::{
    Epoch, Greeting, Refused, Session, SessionError, Side, Stale, Stamp, GREETING_BYTES,
};

use super::frame::{self, FrameError, FrameReader, Stream};
use super::socket;

/// Bytes of a stamp.
const STAMP_BYTES: usize = 8;
/// Most bytes that go to a socket at once.
const WRITE_BYTES: usize = 64 << 10;

/// One side's end of the line.
#[derive(Debug)]
pub struct Line {
    state: Mutex<State>,
    /// Notified when there is an offer, or the line is closed.
    changed: Condvar,
    /// Held by who writes to the socket, so that bytes leave in order. Who reads never waits for it.
    writing: Mutex<()>,
    began: Instant,
}

#[derive(Debug)]
struct State {
    session: Session,
    socket: Option<Arc<TcpStream>>,
    /// A connection that the other side has made, and that is not taken yet.
    offer: Option<(TcpStream, Greeting)>,
    /// Why writing to the present connection failed.
    failure: Option<String>,
    closed: bool,
    resumed: u64,
}

impl State {
    /// Whether there is a connection that takes bytes, as far as is known.
    fn can_be_written(&self) -> bool {
        self.socket.is_some() && self.failure.is_none()
    }
}

/// What came of waiting for the other side to connect.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Offered {
    /// The line goes on.
    Taken,
    /// Nothing came.
    Nothing,
    /// The line is closed.
    Closed,
}

impl Line {
    /// A line over its first connection.
    pub fn new(side: Side, socket: TcpStream) -> Self {
        let state = State {
            session: Session::new(side),
            socket: Some(Arc::new(socket)),
            offer: None,
            failure: None,
            closed: false,
            resumed: 0,
        };
        Line {
            state: Mutex::new(state),
            changed: Condvar::new(),
            writing: Mutex::new(()),
            began: Instant::now(),
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Sends a frame, or keeps it for the next connection. May block while the other side takes nothing, for as long as
    /// the socket's write limit says.
    ///
    /// # Errors
    /// When the frame is too large, the line is closed, or the other side lets too much pile up; then the line is
    /// closed too.
    pub fn send<T: Serialize>(&self, message: &T) -> Result<(), FrameError> {
        let mut bytes = frame::encode_behind(STAMP_BYTES, message)?;
        let mut state = self.state();
        if state.closed {
            return Err(FrameError::Closed);
        }
        let queued = queue(&mut state.session, &mut bytes);
        drop(state);
        if let Err(error) = queued {
            self.close();
            return Err(error.into());
        }
        // Whoever finds the lock taken leaves its bytes to the one who has it, who therefore looks again behind it.
        while self.has_piece() {
            let _writing = self.writing.lock().unwrap_or_else(PoisonError::into_inner);
            while let Some((socket, epoch, bytes)) = self.next_piece() {
                let written = (&*socket).write(&bytes);
                self.wrote(&socket, epoch, written);
            }
        }
        Ok(())
    }

    fn has_piece(&self) -> bool {
        let state = self.state();
        state.can_be_written() && state.session.has_pending()
    }

    /// What the socket is to be given next.
    fn next_piece(&self) -> Option<(Arc<TcpStream>, Epoch, Vec<u8>)> {
        let state = self.state();
        let socket = state.socket.clone().filter(|_| state.can_be_written())?;
        let mut bytes = Vec::new();
        for part in state.session.pending() {
            bytes.extend_from_slice(&part[..part.len().min(WRITE_BYTES - bytes.len())]);
        }
        (!bytes.is_empty()).then_some((socket, state.session.epoch(), bytes))
    }

    /// Notes what came of a write. If it failed, the reader learns of it, and nothing more is written until then.
    fn wrote(&self, socket: &TcpStream, epoch: Epoch, written: io::Result<usize>) {
        let mut state = self.state();
        // Meanwhile there may be another connection, which begins where the other side is.
        let current = state.session.epoch() == epoch && state.session.has_link();
        match written {
            Ok(bytes) if current => state.session.took(bytes),
            Ok(_) => {}
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => {
                if current {
                    state.failure.get_or_insert_with(|| frame::plain(&error));
                }
                socket::hang_up(socket);
            }
        }
    }

    /// Sends what waits as far as the socket takes it at once; the rest goes with the next frame. For who reads: two
    /// readers that waited for each other to take something would wait for ever.
    fn send_without_waiting(&self) {
        let Ok(_writing) = self.writing.try_lock() else { return };
        while let Some((socket, epoch, bytes)) = self.next_piece() {
            match rustix::net::send(&*socket, &bytes, SendFlags::DONTWAIT | SendFlags::NOSIGNAL) {
                Err(rustix::io::Errno::AGAIN) => return,
                sent => self.wrote(&socket, epoch, sent.map_err(io::Error::from)),
            }
        }
    }

    /// A reader for the present connection, if there is one.
    ///
    /// # Errors
    /// When the socket cannot be used by two.
    pub fn reader(&self) -> io::Result<Option<LineReader<'_>>> {
        let (socket, epoch) = {
            let state = self.state();
            let Some(socket) = state.socket.clone() else { return Ok(None) };
            (socket, state.session.epoch())
        };
        let frames = FrameReader::new(socket.try_clone()?);
        Ok(Some(LineReader { line: self, epoch, frames, greeting: Vec::new() }))
    }

    /// The connection has ended: drops it. Gives the reason if it was a writer who saw it first.
    pub fn broke(&self) -> Option<String> {
        let mut state = self.state();
        let now = self.began.elapsed().as_micros() as u64;
        state.session.broke(now);
        if let Some(socket) = state.socket.take() {
            socket::hang_up(&socket);
        }
        state.failure.take()
    }

    /// If it is this side that dials and there is no connection: what to say.
    pub fn redial(&self) -> Option<Greeting> {
        self.state().session.redial()
    }

    /// The other side was reached, in this epoch; its greeting is the first thing that is read.
    ///
    /// # Errors
    /// If nobody waits for it.
    pub fn dialled(&self, socket: TcpStream, epoch: Epoch) -> Result<(), Stale> {
        let mut state = self.state();
        state.session.dialled(epoch)?;
        state.socket = Some(Arc::new(socket));
        state.resumed += 1;
        Ok(())
    }

    /// The other side has connected anew. The present connection, if there still is one, ends, so that its reader comes
    /// for the new one.
    ///
    /// # Errors
    /// If the new connection comes too late; it is closed.
    pub fn offer(&self, socket: TcpStream, greeting: Greeting) -> Result<(), Stale> {
        let mut state = self.state();
        let newest = state.offer.as_ref().map_or(Epoch(0), |(_, offer)| offer.epoch);
        let current = state.session.epoch().max(newest);
        if greeting.epoch <= current || state.session.side() != Side::Accepts || state.closed {
            return Err(Stale { offered: greeting.epoch, current });
        }
        state.offer = Some((socket, greeting));
        if let Some(old) = &state.socket {
            socket::hang_up(old);
        }
        self.changed.notify_all();
        Ok(())
    }

    /// Waits for the other side to connect, no longer than `limit`.
    ///
    /// # Errors
    /// If the other side contradicts what it said before.
    pub fn await_offer(&self, limit: Duration) -> Result<Offered, SessionError> {
        let nothing = |state: &mut State| state.offer.is_none() && !state.closed;
        let waited = self.changed.wait_timeout_while(self.state(), limit, nothing);
        let (mut state, _) = waited.unwrap_or_else(PoisonError::into_inner);
        if state.closed {
            return Ok(Offered::Closed);
        }
        let Some((socket, greeting)) = state.offer.take() else { return Ok(Offered::Nothing) };
        let now = self.began.elapsed().as_micros() as u64;
        match state.session.accept(greeting, now) {
            Ok(()) => {
                state.socket = Some(Arc::new(socket));
                state.resumed += 1;
                drop(state);
                self.send_without_waiting();
                Ok(Offered::Taken)
            }
            Err(Refused::Stale(_)) => Ok(Offered::Nothing),
            Err(Refused::Session(error)) => Err(error),
        }
    }

    /// Ends the line. Nothing more is sent, and whoever reads it sees its end.
    pub fn close(&self) {
        let mut state = self.state();
        state.closed = true;
        state.offer = None;
        if let Some(socket) = &state.socket {
            socket::hang_up(socket);
        }
        self.changed.notify_all();
    }

    /// Whether it was closed on this side.
    pub fn is_closed(&self) -> bool {
        self.state().closed
    }

    /// How often it went on over a new connection.
    pub fn resumed(&self) -> u64 {
        self.state().resumed
    }

    /// Confirms what was received, if the other side waits for that.
    fn confirm(&self) {
        let mut state = self.state();
        if !state.session.owes_confirmation() {
            return;
        }
        let idle = frame::encode_behind(STAMP_BYTES, &());
        // A side that lets so much pile up that there is no room is found out by the next who sends.
        let queued = idle.map(|mut idle| queue(&mut state.session, &mut idle).is_ok());
        drop(state);
        if matches!(queued, Ok(true)) {
            self.send_without_waiting();
        }
    }
}

/// Stamps a frame that has room for it, and queues it.
fn queue(session: &mut Session, bytes: &mut [u8]) -> Result<(), SessionError> {
    session.check_room(bytes.len())?;
    let Stamp { seq, ack } = session.stamp();
    let stamp = &mut bytes[frame::LENGTH_BYTES..frame::LENGTH_BYTES + STAMP_BYTES];
    stamp[..4].copy_from_slice(&seq.to_le_bytes());
    stamp[4..].copy_from_slice(&ack.to_le_bytes());
    session.queue(bytes)
}

/// Reads one connection of a line.
#[derive(Debug)]
pub struct LineReader<'a> {
    line: &'a Line,
    epoch: Epoch,
    frames: FrameReader<TcpStream>,
    /// What has come of the other side's greeting.
    greeting: Vec<u8>,
}

impl LineReader<'_> {
    /// The next frame.
    ///
    /// # Errors
    /// [`FrameError::TimedOut`] leaves the reader usable. [`FrameError::Session`], `Malformed` and `TooLarge` are faults
    /// of the other side. After every other error the connection has ended.
    pub fn read<T: DeserializeOwned>(&mut self, deadline: Option<Instant>) -> Result<T, FrameError> {
        loop {
            if self.line.state().session.expects_greeting() {
                self.read_greeting(deadline)?;
            }
            let body = self.frames.read_body(deadline)?;
            let malformed = || FrameError::Malformed { bytes: body.len() };
            let (stamp, rest) = body.split_first_chunk::<STAMP_BYTES>().ok_or_else(malformed)?;
            let [s0, s1, s2, s3, a0, a1, a2, a3] = *stamp;
            let stamp = Stamp {
                seq: u32::from_le_bytes([s0, s1, s2, s3]),
                ack: u32::from_le_bytes([a0, a1, a2, a3]),
            };
            self.take(stamp, frame::LENGTH_BYTES + body.len())?;
            self.line.confirm();
            if !rest.is_empty() {
                return frame::decode(rest).map_err(|_| malformed());
            }
        }
    }

    fn take(&self, stamp: Stamp, bytes: usize) -> Result<(), FrameError> {
        let mut state = self.line.state();
        if state.session.epoch() != self.epoch || !state.session.has_link() {
            return Err(FrameError::Closed);
        }
        Ok(state.session.take_frame(stamp, bytes)?)
    }

    fn read_greeting(&mut self, deadline: Option<Instant>) -> Result<(), FrameError> {
        let mut bytes = [0; GREETING_BYTES];
        while self.greeting.len() < GREETING_BYTES {
            let left = deadline.map(|at| at.saturating_duration_since(Instant::now()));
            if left == Some(Duration::ZERO) {
                return Err(FrameError::TimedOut);
            }
            let mut stream = self.frames.stream();
            stream.limit_reads(left.map(|left| left.max(Duration::from_micros(1))))?;
            let missing = GREETING_BYTES - self.greeting.len();
            match stream.read(&mut bytes[..missing]) {
                Ok(0) => return Err(FrameError::Closed),
                Ok(count) => self.greeting.extend_from_slice(&bytes[..count]),
                // The deadline decides, as for frames.
                Err(error)
                    if matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted) => {}
                Err(error) => return Err(error.into()),
            }
        }
        bytes.copy_from_slice(&self.greeting);
        let greeting = Greeting::decode(&bytes)?;
        self.line.state().session.greeted(greeting)?;
        self.line.confirm();
        self.line.send_without_waiting();
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::TcpListener;
    use std::sync::atomic::{AtomicBool, Ordering};

    const HANG: Duration = Duration::from_secs(60);

    fn pair() -> (TcpStream, TcpStream) {
        let listener = TcpListener::bind("127.0.0.1:0").expect("bind");
        let there = TcpStream::connect(listener.local_addr().expect("address")).expect("connect");
        (there, listener.accept().expect("accept").0)
    }

    fn lines() -> (Arc<Line>, Arc<Line>) {
        let (one, other) = pair();
        (Arc::new(Line::new(Side::Dials, one)), Arc::new(Line::new(Side::Accepts, other)))
    }

    /// Connects the two anew, as a node and a daemon do.
    fn reconnect(dials: &Line, accepts: &Line) {
        let greeting = dials.redial().expect("it is down");
        let (here, there) = pair();
        let _closed = accepts.offer(there, greeting);
        dials.dialled(here, greeting.epoch).expect("it waits for it");
    }

    fn soon() -> Option<Instant> {
        Some(Instant::now() + HANG)
    }

    #[test]
    fn frames_that_a_broken_connection_took_come_over_the_next_one() {
        let (dials, accepts) = lines();
        let mut reader = accepts.reader().expect("clone").expect("a connection");
        dials.send(&1u32).expect("sent");
        assert_eq!(reader.read::<u32>(soon()).expect("frame"), 1);
        // The other side never reads these two.
        dials.send(&2u32).expect("sent");
        dials.send(&3u32).expect("sent");
        drop(reader);
        assert_eq!((accepts.broke(), dials.broke()), (None, None));
        dials.send(&4u32).expect("kept");
        accepts.send(&50u32).expect("kept");
        reconnect(&dials, &accepts);
        assert_eq!(accepts.await_offer(HANG), Ok(Offered::Taken));
        let mut back = dials.reader().expect("clone").expect("a connection");
        assert_eq!(back.read::<u32>(soon()).expect("frame"), 50);
        let mut reader = accepts.reader().expect("clone").expect("a connection");
        for expected in [2, 3, 4] {
            assert_eq!(reader.read::<u32>(soon()).expect("frame"), expected);
        }
        assert_eq!((dials.resumed(), accepts.resumed()), (1, 1));
    }

    #[test]
    fn a_late_offer_is_refused_and_a_newer_one_ends_the_old_connection() {
        let (dials, accepts) = lines();
        let mut reader = accepts.reader().expect("clone").expect("a connection");
        let late = Greeting { epoch: Epoch::FIRST, received: 0 };
        assert!(accepts.offer(pair().0, late).is_err());
        assert!(dials.offer(pair().0, Greeting { epoch: Epoch(9), received: 0 }).is_err(), "it dials");
        dials.broke();
        reconnect(&dials, &accepts);
        assert!(reader.read::<u32>(soon()).is_err(), "the reader comes for the new one");
        drop(reader);
        assert_eq!(accepts.broke(), None);
        assert_eq!(accepts.await_offer(HANG), Ok(Offered::Taken));
        assert_eq!(accepts.await_offer(Duration::ZERO), Ok(Offered::Nothing));
    }

    #[test]
    fn a_closed_line_takes_nothing_and_lets_go_of_who_waits() {
        let (dials, accepts) = lines();
        accepts.broke();
        let waiting = accepts.clone();
        let waiter = std::thread::spawn(move || waiting.await_offer(HANG));
        accepts.close();
        assert_eq!(waiter.join().expect("no panic"), Ok(Offered::Closed));
        assert!(matches!(accepts.send(&1u32), Err(FrameError::Closed)));
        assert!(accepts.offer(pair().0, Greeting { epoch: Epoch(5), received: 0 }).is_err());
        assert!(accepts.is_closed() && !dials.is_closed());
    }

    #[test]
    fn what_is_kept_for_a_side_that_is_away_is_bounded() {
        let (dials, _accepts) = lines();
        dials.broke();
        let large = vec![0u8; 1 << 19];
        let mut sent = 0;
        let error = loop {
            match dials.send(&large) {
                Ok(()) => sent += 1,
                Err(error) => break error,
            }
            assert!(sent < 100, "it keeps without end");
        };
        assert!(matches!(error, FrameError::Session(SessionError::Congested { .. })), "{error}");
        assert!(dials.is_closed());
    }

    #[test]
    fn frames_without_a_place_are_faults() {
        for bytes in [&[4, 0, 0, 0, 0, 0, 0, 0][..], &[9, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 7]] {
            let (mut there, here) = pair();
            let line = Line::new(Side::Accepts, here);
            there.write_all(bytes).expect("written");
            let error = line.reader().expect("clone").expect("a connection").read::<u8>(soon());
            let fault = matches!(error, Err(FrameError::Malformed { .. } | FrameError::Session(_)));
            assert!(fault, "{error:?}");
        }
    }

    #[test]
    fn many_senders_and_a_connection_that_breaks_all_the_time_lose_nothing() {
        let (dials, accepts) = lines();
        let (senders, each) = (3u32, 2000u32);
        let done = Arc::new(AtomicBool::new(false));
        std::thread::scope(|scope| {
            for sender in 0..senders {
                let dials = &dials;
                scope.spawn(move || {
                    for number in 0..each {
                        dials.send(&(sender, number, vec![7u8; number as usize % 300])).expect("kept");
                    }
                });
            }
            // The dialler breaks the connection whenever it hears from the other side.
            let dialling = (&dials, &accepts, &done);
            scope.spawn(move || {
                let (dials, accepts, done) = dialling;
                while !done.load(Ordering::SeqCst) {
                    let heard = dials.reader().expect("clone").expect("a connection").read::<u32>(soon());
                    if !done.load(Ordering::SeqCst) {
                        assert!(heard.is_ok(), "{heard:?}");
                        dials.broke();
                        reconnect(dials, accepts);
                    }
                }
            });
            let mut next = vec![0; senders as usize];
            let mut got = 0;
            while got < senders * each {
                let mut reader = accepts.reader().expect("clone").expect("a connection");
                while let Ok((sender, number, _)) = reader.read::<(u32, u32, Vec<u8>)>(soon()) {
                    assert_eq!(number, next[sender as usize], "of sender {sender}");
                    next[sender as usize] += 1;
                    got += 1;
                    done.store(got == senders * each, Ordering::SeqCst);
                    if got % 100 == 0 {
                        accepts.send(&got).expect("kept");
                    }
                    if got == senders * each {
                        break;
                    }
                }
                drop(reader);
                if got < senders * each {
                    accepts.broke();
                    assert_eq!(accepts.await_offer(HANG), Ok(Offered::Taken));
                }
            }
            dials.close();
        });
        println!("resumed {} times", accepts.resumed());
        assert!(accepts.resumed() > 2);
    }
}
