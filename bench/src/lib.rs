//! Shared by the benchmark's programs: the answers of the mock provider.

use std::fmt::Write;

/// Events of a streamed answer, the end included.
pub const EVENTS: usize = 53;

/// A chat completion of about 700 bytes.
pub fn completion() -> String {
    let text = "The quick brown fox jumps over the lazy dog, as it has done in every example since anybody can remember. ";
    format!(
        "{{\"id\":\"chatcmpl-bench\",\"object\":\"chat.completion\",\"created\":1700000000,\"model\":\"bench\",\"choices\":[{{\"index\":0,\
         \"message\":{{\"role\":\"assistant\",\"content\":\"{}\",\"refusal\":null}},\"logprobs\":null,\"finish_reason\":\"stop\"}}],\
         \"usage\":{{\"prompt_tokens\":120,\"completion_tokens\":60,\"total_tokens\":180,\"prompt_tokens_details\":{{\"cached_tokens\":0}}}}}}",
        text.repeat(4)
    )
}

/// The events of a stream, each about 300 bytes.
pub fn events() -> Vec<String> {
    let mut events: Vec<String> = (0..EVENTS - 2)
        .map(|number| {
            format!(
                "data: {{\"id\":\"chatcmpl-bench\",\"object\":\"chat.completion.chunk\",\"created\":1700000000,\"model\":\"bench\",\
                 \"system_fingerprint\":\"fp_0123456789abcdef\",\"service_tier\":\"default\",\"choices\":[{{\"index\":0,\"delta\":\
                 {{\"content\":\" token{number:03}\"}},\"logprobs\":null,\"finish_reason\":null}}],\"usage\":null}}\n\n"
            )
        })
        .collect();
    events.push(
        "data: {\"id\":\"chatcmpl-bench\",\"object\":\"chat.completion.chunk\",\"created\":1700000000,\"model\":\"bench\",\"choices\":[],\
         \"usage\":{\"prompt_tokens\":120,\"completion_tokens\":51,\"total_tokens\":171}}\n\n"
            .to_owned(),
    );
    events.push("data: [DONE]\n\n".to_owned());
    events
}

/// A chunk of a chunked answer.
pub fn chunk(payload: &str) -> Vec<u8> {
    let mut framed = String::new();
    let _ = write!(framed, "{:x}\r\n{payload}\r\n", payload.len());
    framed.into_bytes()
}
