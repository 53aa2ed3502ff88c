//! An answer as it comes, event by event.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::timeout;
use tollgate_core::Result;
use tollgate_ledger::Dispatched;
use tollgate_wire::{ChunkFrame, ClientExchange, Exchange};

use super::{Told, cancels, count_input, note_end, record, stall_time_max};
use crate::admit::Asked;
use crate::observe::Observer;
use crate::pool::Pool;
use crate::relay::Relayed;
use crate::upstream::Sent;
use crate::{Gateway, background};

/// How long an answer is read on for its usage after the client has gone.
const DRAIN_TIME_MAX: Duration = Duration::from_mins(2);

pub(super) async fn stream(
    gateway: &Arc<Gateway>,
    pool: &Pool,
    exchange: &mut Exchange,
    sent: Sent,
    asked: &Asked<'_>,
    told: Told,
) -> Result<Relayed> {
    let (call, of_upstream, status) = (asked.call, sent.asked.elapsed(), sent.answer.head.status);
    let headers = told.headers(&sent.answer);
    let Sent { mut answer, mut hold, upstream, asked: since } = sent;
    let (time_max, cancels) = (stall_time_max(gateway, &upstream), cancels(&upstream, call));
    let mut observer = Observer::new(call.endpoint, call.strips_usage, call.input_estimate());
    let mut frame = ChunkFrame::default();
    hold.on_disk().await;
    told.note_overhead(gateway, of_upstream);
    let mut client = Client { is_there: exchange.start(status, &headers).await.is_ok(), has_seen: false };
    let mut made: Option<String> = None;
    let is_whole = loop {
        if !client.is_there {
            observer.client_left();
            if cancels {
                drop(answer); // which stops the upstream
                count_input(gateway, asked, &mut hold).await;
                hold.cancel(call.is_shown());
                return Ok(Relayed::default());
            }
            break drain(gateway, &mut answer, &mut hold, &mut observer).await;
        }
        observer.begin(&mut frame);
        let reading = next_piece(exchange, &mut answer, &mut frame, time_max, cancels);
        match reading.await {
            Piece::More => observer.watch(&mut frame, &mut hold),
            Piece::End => break true,
            Piece::Cut => break false,
            Piece::ClientGone => {
                client.is_there = false;
                continue;
            }
        }
        if let Some(new) = observer.made().filter(|_| call.is_kept) {
            record(gateway, asked.caller.project, upstream.id, &new).await;
            made.get_or_insert(new.id);
        }
        client.send(gateway, exchange, &mut frame).await;
    };
    // Of what came after the client had gone.
    if let Some(last) = observer.made().filter(|_| call.is_kept) {
        record(gateway, asked.caller.project, upstream.id, &last).await;
        made.get_or_insert(last.id);
    }
    note_end(gateway, &upstream, &asked.model.id, status, since);
    if is_whole {
        observer.rest(&mut frame);
        client.send(gateway, exchange, &mut frame).await;
        if let Some(connection) = answer.into_connection() {
            pool.put(&upstream, connection);
        }
    }
    // The ledger has its word before the client sees the end.
    let reported = observer.report(is_whole);
    if let Some(made) = made.filter(|_| call.is_background && reported.usage.is_none()) {
        background::follow(gateway, &upstream, made, hold);
        return Ok(Relayed { usage: None, is_cut: !is_whole && client.is_there });
    }
    if reported.usage.is_none() {
        count_input(gateway, asked, &mut hold).await;
    }
    let usage = reported.usage;
    hold.settle(reported);
    if is_whole && client.is_there {
        exchange.finish().await;
    }
    Ok(Relayed { usage, is_cut: !is_whole && client.is_there })
}

/// What came next of an answer.
enum Piece {
    More,
    End,
    Cut,
    ClientGone,
}

/// Waits for the next piece; for the client to go away only where that stops the upstream.
async fn next_piece(
    exchange: &mut Exchange,
    answer: &mut ClientExchange,
    frame: &mut ChunkFrame,
    time_max: Duration,
    cancels: bool,
) -> Piece {
    let reading = timeout(time_max, answer.read(frame.buffer()));
    let read = if cancels {
        tokio::select! {
            read = reading => read,
            () = exchange.gone() => return Piece::ClientGone,
        }
    } else {
        reading.await
    };
    match read {
        Ok(Ok(true)) => Piece::More,
        Ok(Ok(false)) => Piece::End,
        Ok(Err(_)) | Err(_) => Piece::Cut,
    }
}

/// Whether somebody still reads, and has something of it.
struct Client {
    is_there: bool,
    has_seen: bool,
}

impl Client {
    async fn send(&mut self, gateway: &Gateway, exchange: &mut Exchange, frame: &mut ChunkFrame) {
        if !self.is_there || frame.payload().is_empty() {
            return;
        }
        self.is_there = exchange.send(frame).await.is_ok();
        if !std::mem::replace(&mut self.has_seen, true) {
            gateway.figures.first_chunk.observe((), exchange.elapsed());
        }
    }
}

/// Reads on for the usage that comes at the end; says whether the end came.
async fn drain(
    gateway: &Gateway,
    answer: &mut ClientExchange,
    hold: &mut Dispatched,
    observer: &mut Observer,
) -> bool {
    let Ok(_permit) = gateway.drains.try_acquire() else { return false };
    let reading = async {
        let mut frame = ChunkFrame::default();
        loop {
            observer.begin(&mut frame);
            match answer.read(frame.buffer()).await {
                Ok(true) => observer.watch(&mut frame, hold),
                Ok(false) => return true,
                Err(_) => return false,
            }
        }
    };
    timeout(DRAIN_TIME_MAX, reading).await.unwrap_or(false)
}
