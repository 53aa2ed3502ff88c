use serde_json::Value;

use super::*;
use crate::refusal::tests::upstream;

const CHAT: &str = r#""model":"m","messages":[{"role":"user","content":"hi"}]"#;

fn chat(fields: &str) -> Result<Call> {
    Call::read(Endpoint::ChatCompletions, format!("{{{CHAT}{fields}}}").as_bytes(), None)
}

fn sent(text: &str) -> Value {
    let call = Call::read(Endpoint::ChatCompletions, text.as_bytes(), None).unwrap();
    let edits = call.edits(text.as_bytes(), &upstream(), None, None, Some(0)).unwrap();
    serde_json::from_slice(&edit::apply(text.as_bytes(), &edits)).unwrap()
}

#[test]
fn a_stream_always_asks_for_its_usage_and_nothing_else_changes() {
    for options in ["", r#","stream_options":null"#, r#", "stream_options" : {"include_usage":false,"x":1}"#]
    {
        let text = format!(r#" {{{CHAT},"stream":true{options},"seed":1.50}}"#);
        let sent = sent(&text);
        assert_eq!(sent["stream_options"]["include_usage"], true, "{options}");
        let mut before: Value = serde_json::from_str(&text).unwrap();
        before["stream_options"] = sent["stream_options"].clone();
        assert_eq!(sent, before);
    }
    let asked = chat(r#","stream":true,"stream_options":{"include_usage":true}"#).unwrap();
    assert!(asked.changes.is_empty() && !asked.strips_usage);
    assert!(chat("").unwrap().changes.is_empty());
    for options in
        [r#"{"include_usage":true,"INCLUDE_USAGE":false}"#, r#"{"include_usage":true,"include_usage":false}"#]
    {
        let error = chat(&format!(r#","stream":true,"stream_options":{options}"#)).unwrap_err();
        assert_eq!(error.param.as_deref(), Some("stream_options"), "{options}");
    }
    assert_eq!(
        chat(r#","stream":true,"stream_options":7"#).unwrap_err().param.as_deref(),
        Some("stream_options")
    );
}

#[test]
fn a_field_that_another_reader_might_see_differently_is_refused() {
    for fields in [
        r#","model":"other""#,
        r#","MODEL":"other""#,
        r#","Max_Tokens":5"#,
        r#","meſſages":[]"#,
        r#","\u006dodel":"other""#,
        r#","max_tokenſ":5"#,
        r#","messages":[{"role":"user","Content":[{"type":"image_url"}]}]"#,
        r#","tools":[{"Type":"live_search"}]"#,
    ] {
        assert!(chat(fields).is_err(), "{fields}");
    }
    assert!(chat(r#","modelx":1,"temperature":0.5,"ключ":1"#).is_ok());
}

#[test]
fn the_usual_tier_is_asked_for_where_it_has_to_be() {
    for tier in
        ["", r#","service_tier":"auto""#, r#","service_tier":null"#, r#", "service_tier" : "default""#]
    {
        let text = format!("{{{CHAT}{tier}}}");
        let call = Call::read(Endpoint::ChatCompletions, text.as_bytes(), None).unwrap();
        let sent = |is_usual_tier: bool| {
            let edits = call
                .edits(text.as_bytes(), &upstream(), None, is_usual_tier.then_some("default"), Some(0))
                .unwrap();
            serde_json::from_slice::<Value>(&edit::apply(text.as_bytes(), &edits)).unwrap()
        };
        assert_eq!(sent(true)["service_tier"], "default");
        assert_eq!(sent(false), serde_json::from_str::<Value>(&text).unwrap());
    }
}

#[test]
fn no_tier_is_asked_for_where_the_endpoint_has_none() {
    let body = br#"{"model":"m","prompt":"x","max_tokens":3}"#;
    let call = Call::read(Endpoint::Completions, body, None).unwrap();
    assert!(
        call.edits(body, &upstream(), None, Some("default"), Some(0)).unwrap().is_empty(),
        "OpenAI refuses it by name"
    );
}

#[test]
fn the_model_of_the_path_is_the_one_that_is_sent() {
    for (body, expected) in [
        (r#"{"messages":[]}"#, r#"{"model":"a\"b","messages":[]}"#),
        (r#"{"model":"c","messages":[]}"#, r#"{"model":"a\"b","messages":[]}"#),
        (r#"{"messages":[], "model" : "a\"b"}"#, r#"{"messages":[], "model" : "a\"b"}"#),
    ] {
        let call = Call::read(Endpoint::ChatCompletions, body.as_bytes(), Some("a\"b")).unwrap();
        let edits = call.edits(body.as_bytes(), &upstream(), None, None, Some(0)).unwrap();
        assert_eq!(edit::apply(body.as_bytes(), &edits).as_ref(), expected.as_bytes());
        assert_eq!(call.model, "a\"b");
    }
}

#[test]
fn only_parameters_that_are_known_to_do_no_harm_are_passed_over() {
    let call = chat(r#","temperature":1,"top_k":5,"n_predict":4000,"fallbacks":[],"seed":1"#).unwrap();
    assert_eq!(call.unknown_parameter(&[]), Some("n_predict"));
    assert_eq!(call.unknown_parameter(&["n_predict".to_owned()]), Some("fallbacks"));
    assert_eq!(call.unknown_parameter(&["n_predict".to_owned(), "fallbacks".to_owned()]), None);
    assert!(
        Call::read(Endpoint::ChatCompletions, b"{\"model\":\"m\",\"messages\":[],\"user\":\"\xff\"}", None)
            .is_err()
    );
}

#[test]
fn only_the_addresses_of_images_are_no_text() {
    let part = |image: &str| {
        format!(r#"{{"model":"m","messages":[{{"content":[{{"type":"image_url","image_url":{image}}}]}}]}}"#)
    };
    for (image, rest) in [
        (r#""http://x""#, "null"),
        (r#"{"url":"http://x"}"#, r#"{"url":null}"#),
        (
            r#"{"detail":"low","url":"http://x","more":"text"}"#,
            r#"{"detail":"low","url":null,"more":"text"}"#,
        ),
        (r#"{"url":5}"#, r#"{"url":5}"#),
    ] {
        let body = part(image);
        let call = Call::read(Endpoint::ChatCompletions, body.as_bytes(), None).unwrap();
        assert_eq!(String::from_utf8(call.text(body.as_bytes()).0).unwrap(), part(rest));
    }
    assert!(
        Call::read(Endpoint::ChatCompletions, part(r#"{"url":"a","url":"b"}"#).as_bytes(), None).is_err()
    );
}

#[test]
fn embeddings_of_what_is_no_text_have_no_bound() {
    let none = ModelFacts::default();
    let bound = |input: &str| {
        let text = format!(r#"{{"model":"m","input":{input}}}"#);
        Call::read(Endpoint::Embeddings, text.as_bytes(), None).map(|call| call.input_max(&none, None))
    };
    for input in [r#""a""#, r#"["a","b"]"#, "[1,2]", "[[1],[2,3]]", "[]"] {
        assert!(bound(input).unwrap().is_some(), "{input}");
    }
    for input in
        [r#"[{"image":"https://x"}]"#, r#"{"text":"a"}"#, "5", r#"[["a"]]"#, "[[[1]]]", r#"["a",{}]"#]
    {
        assert_eq!(bound(input).unwrap(), None, "{input}");
    }
    assert!(bound("[true]").is_err());
}

#[test]
fn what_is_not_served_yet_is_refused_by_name() {
    for (fields, param) in [
        (r#","service_tier":"scale""#, "service_tier"),
        (r#","store":true"#, "store"),
        (r#","web_search_options":{}"#, "web_search_options"),
        (r#","modalities":["text","video"]"#, "modalities"),
        (r#","n":0"#, "n"),
        (r#","n":129"#, "n"),
        (r#","best_of":0"#, "best_of"),
        (r#","max_tokens":-1"#, "max_tokens"),
        (r#","models":["dear"]"#, "models"),
        (r#","plugins":[]"#, "plugins"),
        (r#","search_parameters":{}"#, "search_parameters"),
        (r#","data_sources":[]"#, "data_sources"),
        (r#","chat_template":"x""#, "chat_template"),
        (r#","tools":[{"type":"function"},{"type":"live_search"}]"#, "tools[1].type"),
        (r#","tools":[{"google_search":{}}]"#, "tools[0].type"),
        (r#","max_tokens":"5""#, "max_tokens"),
        (r#","stream":"yes""#, "stream"),
    ] {
        assert_eq!(chat(fields).unwrap_err().param.as_deref(), Some(param), "{fields}");
    }
    let kinds = |fields| chat(fields).unwrap().kinds;
    assert!(kinds(r#","modalities":["text","audio"],"audio":{"voice":"x"}"#).audio_output);
    assert_eq!(kinds(r#","modalities":["text"]"#), Kinds::default());
    let audio =
        r#"{"model":"m","messages":[{"role":"user","content":[{"type":"input_audio","input_audio":{}}]}]}"#;
    assert!(Call::read(Endpoint::ChatCompletions, audio.as_bytes(), None).unwrap().kinds.audio_input);
    assert!(chat(r#","service_tier":null,"store":false,"modalities":["text"]"#).is_ok());
}

#[test]
fn what_must_be_there_is_asked_for_by_name() {
    for (endpoint, text, param) in [
        (Endpoint::ChatCompletions, "{}", "model"),
        (Endpoint::ChatCompletions, r#"{"model":""}"#, "model"),
        (Endpoint::ChatCompletions, r#"{"model":"m"}"#, "messages"),
        (Endpoint::ChatCompletions, r#"{"model":"m","messages":"hi"}"#, "messages"),
        (Endpoint::ChatCompletions, r#"{"model":5}"#, "model"),
        (Endpoint::Embeddings, r#"{"model":"m"}"#, "input"),
    ] {
        assert_eq!(
            Call::read(endpoint, text.as_bytes(), None).unwrap_err().param.as_deref(),
            Some(param),
            "{text}"
        );
    }
}

#[test]
fn bounds_come_from_the_request_then_the_model() {
    let facts =
        ModelFacts { context_tokens: Some(8_000), max_output_tokens: Some(1_000), ..ModelFacts::default() };
    let none = ModelFacts::default();
    let plain = chat("").unwrap();
    assert_eq!((plain.output_each(&facts), plain.output_each(&none)), (Some(1_000), None));
    assert_eq!(plain.input_max(&none, None), Some(plain.body_bytes + FRAMING_TOKENS));
    let grown = plain.input_max(&none, Some("\u{fdfa}".as_bytes()));
    assert_eq!(grown, Some(plain.body_bytes + FRAMING_TOKENS + 30));
    let tools = chat(r#","tools":[{"type":"function"}]"#).unwrap();
    let grown = tools.input_max(&none, Some(b"[1]"));
    assert_eq!(grown, Some(tools.body_bytes + FRAMING_TOKENS + TOOLS_FRAMING_TOKENS + 6));
    let limited = chat(r#","max_tokens":10,"max_completion_tokens":20,"n":3"#).unwrap();
    assert_eq!((limited.output_each(&facts), limited.choices()), (Some(20), 3));
    assert_eq!(chat(r#","n":2,"best_of":5"#).unwrap().choices(), 5);
    let endless = chat(r#","max_tokens":9000000"#).unwrap();
    assert_eq!(endless.output_each(&facts), Some(1_000), "a model makes no more than it can");
    let predicted = chat(r#","max_tokens":10,"prediction":{"type":"content","content":"x"}"#).unwrap();
    assert_eq!((plain.output_extra(), predicted.output_extra()), (0, predicted.body_bytes));
    let image = r#"{"model":"m","messages":[{"role":"user","content":[{"type":"image_url","image_url":{"url":"u"}}]}]}"#;
    let image = Call::read(Endpoint::ChatCompletions, image.as_bytes(), None).unwrap();
    assert_eq!(
        (image.input_max(&facts, None), image.input_max(&none, None)),
        (Some(8_500), None),
        "with room for a rounded figure"
    );
    let seen = ModelFacts { image_tokens: Some(1_445), ..none };
    assert_eq!(image.input_max(&seen, None), Some(1_445 + image.body_bytes - 3 + FRAMING_TOKENS));
    let embeddings = Call::read(Endpoint::Embeddings, br#"{"model":"m","input":["a"]}"#, None).unwrap();
    assert_eq!(
        (embeddings.output_each(&none), embeddings.input_max(&none, None)),
        (Some(0), Some(27 + FRAMING_TOKENS))
    );
}

#[test]
fn each_prompt_has_a_context_and_an_answer_of_its_own() {
    let facts = ModelFacts { context_tokens: Some(160), ..ModelFacts::default() };
    let of = |more: &str| {
        let text = format!(r#"{{"model":"m"{more}}}"#);
        let call = Call::read(Endpoint::Completions, text.as_bytes(), None).unwrap();
        (call.input_max(&facts, None).unwrap(), call.output_each(&facts), call.choices())
    };
    let long = "x".repeat(1_000);
    assert_eq!(of(&format!(r#","prompt":"{long}""#)), (170, Some(16), 1));
    assert_eq!(of(&format!(r#","prompt":["{long}","{long}"],"n":3,"max_tokens":5"#)), (340, Some(5), 6));
    assert_eq!(of(r#","prompt":[[1,2],[3]]"#).2, 2);
    assert_eq!(of(r#","prompt":[1,2,3]"#).2, 1);
}

#[test]
fn a_response_is_bounded_by_its_items_and_by_what_it_goes_on_from() {
    let facts =
        ModelFacts { context_tokens: Some(100_000), image_tokens: Some(1_000), ..ModelFacts::default() };
    let read = |more: &str| {
        let text = format!(r#"{{"model":"m",{more}}}"#);
        let call = Call::read(Endpoint::Responses, text.as_bytes(), None).unwrap();
        let edits = call.edits(text.as_bytes(), &upstream(), Some(7), None, Some(0)).unwrap();
        let sent: Value = serde_json::from_slice(&edit::apply(text.as_bytes(), &edits)).unwrap();
        assert_eq!(sent["max_output_tokens"], 7);
        (call.input_max(&facts, None).unwrap(), text.len() as u64)
    };
    let (bound, length) = read(r#""input":"hello","max_tokens":9"#);
    assert_eq!(bound, length + FRAMING_TOKENS);
    let image =
        r#""input":[{"content":[{"type":"input_image","image_url":"data:xyz"}]}],"max_output_tokens":8"#;
    let (bound, length) = read(image);
    assert_eq!(bound, length - 10 + FRAMING_TOKENS + 1_000);
    for input in [
        r#""input":[{"content":[{"type":"input_file","file_url":"https://x"}]}]"#,
        r#""input":"x","previous_response_id":"resp_1""#,
        r#""input":[{"type":"item_reference","id":"x"}]"#,
        r#""input":[{"id":"x"}]"#,
        r#""input":[{"type":"reasoning","id":"x","summary":[]}]"#,
    ] {
        assert_eq!(read(input).0, 106_250, "what stands elsewhere may be anything");
    }
    let text = r#"{"model":"m","input":[{"content":[{"type":"input_file","file_id":"x"}]}]}"#;
    let refused = Call::read(Endpoint::Responses, text.as_bytes(), None).unwrap_err();
    assert_eq!(refused.param.as_deref(), Some("input[0]"), "it may be another project's");
}

#[test]
fn what_another_endpoint_knows_is_unknown() {
    let unknown = |endpoint, more: &str| {
        let text = format!(r#"{{"model":"m","messages":[],"input":"x"{more}}}"#);
        Call::read(endpoint, text.as_bytes(), None).unwrap().unknown
    };
    for name in ["max_output_tokens", "background", "conversation", "text", "instructions", "prompt"] {
        let more = format!(r#","{name}":"x""#);
        assert_eq!(unknown(Endpoint::ChatCompletions, &more), [name]);
        assert_eq!(unknown(Endpoint::Embeddings, &more), [name]);
    }
    assert!(unknown(Endpoint::ChatCompletions, r#","text":null"#).is_empty());
    for (reasoning, is_known) in [
        (r#"{"effort":"low","summary":"auto"}"#, true),
        ("null", true),
        (r#"{"max_tokens":100000}"#, false),
        ("5", false),
    ] {
        let more = format!(r#","reasoning":{reasoning}"#);
        let text = format!(r#"{{"model":"m","input":"x"{more}}}"#);
        let call = Call::read(Endpoint::Responses, text.as_bytes(), None).unwrap();
        assert_eq!(call.unknown.is_empty(), is_known, "{reasoning}");
    }
}

#[test]
fn a_body_is_whole_wherever_its_limit_stands() {
    for body in [
        r#"{"max_tokens":9,"model":"m","input":"x"}"#,
        r#"{"max_completion_tokens" : 9,"max_tokens":8,"model":"m","input":"x"}"#,
        r#"{"max_output_tokens":9,"model":"m","input":"x","store":null}"#,
    ] {
        let call = Call::read(Endpoint::Responses, body.as_bytes(), Some("n")).unwrap();
        let edits = call.edits(body.as_bytes(), &upstream(), Some(7), Some("default"), Some(0)).unwrap();
        let sent: Value = serde_json::from_slice(&edit::apply(body.as_bytes(), &edits)).unwrap();
        assert_eq!((&sent["max_output_tokens"], &sent["model"]), (&Value::from(7), &Value::from("n")));
        assert_eq!(sent["service_tier"], "default");
    }
}

#[test]
fn an_empty_prompt_is_a_prompt() {
    let body = br#"{"model":"m","prompt":[[],[],[]]}"#;
    assert_eq!(Call::read(Endpoint::Completions, body, None).unwrap().choices(), 3);
}

#[test]
fn what_changes_the_price_is_refused_at_every_endpoint() {
    for (endpoint, given) in [
        (Endpoint::ChatCompletions, r#""messages":[]"#),
        (Endpoint::Responses, r#""input":"x""#),
        (Endpoint::Completions, r#""prompt":"x""#),
        (Endpoint::Embeddings, r#""input":"x""#),
        (Endpoint::Moderations, r#""input":"x""#),
    ] {
        let read =
            |more: &str| Call::read(endpoint, format!(r#"{{"model":"m",{given}{more}}}"#).as_bytes(), None);
        assert!(read("").is_ok());
        for (more, param) in
            [(r#","models":["dear"]"#, "models"), (r#","service_tier":"scale""#, "service_tier")]
        {
            assert_eq!(read(more).unwrap_err().param.as_deref(), Some(param), "{endpoint:?}");
        }
    }
}
