//! A mock provider that costs next to nothing: it looks at the path and sends prepared bytes.
//! `/json/...` one answer, `/burst/...` a stream all at once but event by event, `/paced/...` an event each 20 ms.

use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tollgate_bench::{chunk, completion, events};

const PACE: Duration = Duration::from_millis(20);
const STREAM_HEAD: &[u8] =
    b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n";

#[tokio::main(flavor = "current_thread")]
async fn main() -> std::io::Result<()> {
    let address = std::env::args().nth(1).unwrap_or_else(|| "127.0.0.1:9101".to_owned());
    let listener = TcpListener::bind(address).await?;
    loop {
        let (stream, _) = listener.accept().await?;
        stream.set_nodelay(true)?;
        tokio::spawn(serve(stream));
    }
}

async fn serve(mut stream: TcpStream) -> std::io::Result<()> {
    let body = completion();
    let json = format!(
        "HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: {}\r\n\r\n{body}",
        body.len()
    );
    let chunks: Vec<Vec<u8>> = events().iter().map(|event| chunk(event)).collect();
    let mut buffer = Vec::with_capacity(16 * 1024);
    loop {
        let (head, length) = loop {
            if let Some(request) = whole(&buffer) {
                break request;
            }
            if stream.read_buf(&mut buffer).await? == 0 {
                return Ok(());
            }
        };
        let is_json = head.contains(" /json/");
        let is_paced = head.contains(" /paced/");
        buffer.drain(..length);
        if is_json {
            stream.write_all(json.as_bytes()).await?;
            continue;
        }
        stream.write_all(STREAM_HEAD).await?;
        for chunk in &chunks {
            if is_paced {
                tokio::time::sleep(PACE).await;
            }
            stream.write_all(chunk).await?;
        }
        stream.write_all(b"0\r\n\r\n").await?;
    }
}

/// The head of a request that is all there, and the length of the whole.
fn whole(buffer: &[u8]) -> Option<(String, usize)> {
    let end = buffer.windows(4).position(|window| window == b"\r\n\r\n")? + 4;
    let head = String::from_utf8_lossy(&buffer[..end]).to_ascii_lowercase();
    let length: usize = head
        .lines()
        .find_map(|line| line.strip_prefix("content-length:"))
        .and_then(|length| length.trim().parse().ok())
        .unwrap_or(0);
    (buffer.len() >= end + length).then_some((head, end + length))
}
