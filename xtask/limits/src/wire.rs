//! A round trip: 64 bytes to a thread of this process and back over TCP on loopback, in the clear, by blocking calls.
//! Knows sockets. Refuses to know any protocol.

use std::io::{Read as _, Write as _};
use std::net::{TcpListener, TcpStream};
use std::time::Duration;

use crate::timed;

/// What a small message takes.
const MESSAGE: usize = 64;

/// Times of `count` round trips, one after the other on one connection.
pub(crate) fn round_trips(count: usize) -> std::io::Result<Vec<Duration>> {
    let listener = TcpListener::bind("127.0.0.1:0")?;
    let address = listener.local_addr()?;
    std::thread::scope(|scope| {
        let echo = scope.spawn(move || listener.accept().and_then(|(stream, _)| echo(stream, count)));
        let mut stream = TcpStream::connect(address)?;
        stream.set_nodelay(true)?;
        let mut message = [1; MESSAGE];
        let took = timed(count, || {
            stream.write_all(&message)?;
            stream.read_exact(&mut message)
        });
        drop(stream);
        echo.join().map_err(|_| std::io::Error::other("the echoing thread panicked"))??;
        took
    })
}

fn echo(mut stream: TcpStream, count: usize) -> std::io::Result<()> {
    stream.set_nodelay(true)?;
    let mut message = [0; MESSAGE];
    for _ in 0..count {
        stream.read_exact(&mut message)?;
        stream.write_all(&message)?;
    }
    Ok(())
}
