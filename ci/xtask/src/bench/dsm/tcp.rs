//! Bare TCP over loopback, with threads that block: what no page can be faster than.

use std::io::{self, Read, Write};
use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use anyhow::{anyhow, Context, Result};

use super::times::Times;

/// Bytes of a request.
const REQUEST_BYTES: usize = 64;
/// Bytes of an answer: a page.
const ANSWER_BYTES: usize = 4096;
/// Bytes that are written and read at a time where only throughput counts.
const PIECE_BYTES: usize = 64 << 10;
/// Requests before those that count.
const WARM_UP: usize = 200;
/// Longer than anything here takes: a hang.
const LIMIT: Duration = Duration::from_secs(60);

/// How long a request of 64 bytes and its answer of a page take.
///
/// # Errors
/// When loopback does not work.
pub fn ping(requests: usize) -> Result<Times> {
    let (mut near, answerer) = connected(move |mut far| {
        let mut request = [0; REQUEST_BYTES];
        for _ in 0..requests + WARM_UP {
            far.read_exact(&mut request)?;
            far.write_all(&[1; ANSWER_BYTES])?;
        }
        Ok(())
    })?;
    let mut answer = [0; ANSWER_BYTES];
    let mut nanoseconds = Vec::with_capacity(requests);
    for number in 0..requests + WARM_UP {
        let start = Instant::now();
        near.write_all(&[2; REQUEST_BYTES])?;
        near.read_exact(&mut answer)?;
        if number >= WARM_UP {
            nanoseconds.push(start.elapsed().as_nanos() as u64);
        }
    }
    join(answerer)?;
    Ok(Times::of_ns(&nanoseconds))
}

/// How many MiB go through one connection in a second.
///
/// # Errors
/// When loopback does not work.
pub fn stream_mib_per_s(mib: u64) -> Result<f64> {
    let (mut near, writer) = connected(move |mut far| {
        let piece = vec![3; PIECE_BYTES];
        (0..(mib << 20) / PIECE_BYTES as u64).try_for_each(|_| far.write_all(&piece))
    })?;
    let start = Instant::now();
    let mut room = vec![0; PIECE_BYTES];
    let mut left = mib << 20;
    while left > 0 {
        match near.read(&mut room)? {
            0 => return Err(anyhow!("the stream ended {left} bytes too soon")),
            read => left = left.saturating_sub(read as u64),
        }
    }
    let seconds = start.elapsed().as_secs_f64();
    join(writer)?;
    Ok(mib as f64 / seconds)
}

type Far = JoinHandle<io::Result<()>>;

/// A connection whose other end is served by a thread.
fn connected(serve: impl FnOnce(TcpStream) -> io::Result<()> + Send + 'static) -> Result<(TcpStream, Far)> {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).context("loopback")?;
    let near = TcpStream::connect(listener.local_addr()?).context("loopback")?;
    let (far, _) = listener.accept()?;
    for end in [&near, &far] {
        end.set_nodelay(true)?;
        end.set_read_timeout(Some(LIMIT))?;
        end.set_write_timeout(Some(LIMIT))?;
    }
    Ok((near, thread::spawn(move || serve(far))))
}

fn join(far: Far) -> Result<()> {
    far.join().map_err(|_| anyhow!("the other end panicked"))?.context("the other end")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn requests_are_answered_and_streams_end() {
        let times = ping(50).unwrap();
        assert_eq!(times.count, 50);
        assert!(times.p50_us > 0.0 && times.p50_us <= times.p99_us);
        assert!(stream_mib_per_s(4).unwrap() > 0.0);
    }
}
