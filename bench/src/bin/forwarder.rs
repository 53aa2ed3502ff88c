//! A bare hyper forwarder: what the HTTP stack alone costs. One thread, pooled connections, no policy at all.

use std::cell::RefCell;
use std::rc::Rc;

use http_body_util::combinators::BoxBody;
use http_body_util::{BodyExt, Full};
use hyper::body::{Bytes, Incoming};
use hyper::client::conn::http1::SendRequest;
use hyper::service::service_fn;
use hyper::{Request, Response};
use hyper_util::rt::TokioIo;
use tokio::net::{TcpListener, TcpStream};
use tokio::task::LocalSet;

type Pool = Rc<RefCell<Vec<SendRequest<Full<Bytes>>>>>;
type Failure = Box<dyn std::error::Error + Send + Sync>;

#[tokio::main(flavor = "current_thread")]
async fn main() -> std::io::Result<()> {
    let mut arguments = std::env::args().skip(1);
    let address = arguments.next().unwrap_or_else(|| "127.0.0.1:9103".to_owned());
    let upstream = Rc::new(arguments.next().unwrap_or_else(|| "127.0.0.1:9101".to_owned()));
    let listener = TcpListener::bind(address).await?;
    let pool = Pool::default();
    LocalSet::new()
        .run_until(async move {
            loop {
                let (stream, _) = listener.accept().await?;
                stream.set_nodelay(true)?;
                let (pool, upstream) = (Rc::clone(&pool), Rc::clone(&upstream));
                tokio::task::spawn_local(async move {
                    let service =
                        service_fn(move |request| forward(request, Rc::clone(&pool), Rc::clone(&upstream)));
                    let _ = hyper::server::conn::http1::Builder::new()
                        .serve_connection(TokioIo::new(stream), service)
                        .await;
                });
            }
        })
        .await
}

async fn forward(
    request: Request<Incoming>,
    pool: Pool,
    upstream: Rc<String>,
) -> Result<Response<BoxBody<Bytes, hyper::Error>>, Failure> {
    let (mut head, body) = request.into_parts();
    let body = body.collect().await?.to_bytes();
    head.headers.remove("connection");
    let idle = pool.borrow_mut().pop();
    let mut sender = if let Some(sender) = idle { sender } else { connect(&upstream).await? };
    sender.ready().await?;
    let response = sender.send_request(Request::from_parts(head, Full::new(body))).await?;
    tokio::task::spawn_local(async move {
        if sender.ready().await.is_ok() {
            pool.borrow_mut().push(sender);
        }
    });
    Ok(response.map(BodyExt::boxed))
}

async fn connect(upstream: &str) -> Result<SendRequest<Full<Bytes>>, Failure> {
    let stream = TcpStream::connect(upstream).await?;
    stream.set_nodelay(true)?;
    let (sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await?;
    tokio::task::spawn_local(connection);
    Ok(sender)
}
