use super::*;

/// What a stream of frames says, in words.
fn said(dialect: Dialect, frames: &[&str]) -> Vec<String> {
    let mut reader = Reader::new(dialect, Increments::Unknown);
    let mut said = Vec::new();
    for frame in frames {
        reader.read(frame.as_bytes(), &mut |delta| said.push(words(delta)));
    }
    said
}

fn words(delta: Delta<'_>) -> String {
    let text = |text: Text<'_>| String::from_utf8_lossy(text.raw()).into_owned();
    let part = |part: Option<Text<'_>>| part.map(text).unwrap_or_else(|| "-".into());
    match delta {
        Delta::Start(start) => format!("start {} {}", part(start.id), part(start.model)),
        Delta::Text { choice, text: said } => format!("text {choice} {}", text(said)),
        Delta::Reasoning { choice, text: said } => format!("reasoning {choice} {}", text(said)),
        Delta::Refusal { choice, text: said } => format!("refusal {choice} {}", text(said)),
        Delta::ToolCall(call) => format!(
            "call {} {} {} {} {}",
            call.choice,
            call.call,
            part(call.id),
            part(call.name),
            part(call.arguments)
        ),
        Delta::Finish { choice, reason: Finish::Other(word) } => {
            format!("finish {choice} {}", text(word))
        }
        Delta::Finish { choice, reason } => format!("finish {choice} {reason:?}"),
        Delta::Usage(usage) => format!("usage {:?} {:?}", usage.input, usage.output),
        Delta::Error(fault) => format!(
            "error {} {} {} {:?}",
            text(fault.message),
            part(fault.kind),
            part(fault.code),
            fault.status
        ),
        Delta::End => "end".into(),
        Delta::Malformed => "malformed".into(),
    }
}

#[test]
fn what_is_no_event_of_its_dialect_says_nothing() {
    for &dialect in Dialect::ALL.iter().filter(|dialect| **dialect != Dialect::Generic) {
        let frames = [
            ": comment\n\n",
            "\n\n",
            "data\n\n",
            "data: ping\n\n",
            "data: {}\n\n",
            "data: []\n\n",
            "data: {\"type\":\"new_thing\",\"delta\":7}\n\n",
            "id: 7\n\n",
            "retry: 10\n\n",
            "data: {\"choices\":[],\"candidates\":[],\"output\":{}}\n\n",
            "event: x\ndata: 7\n\n",
            "data: {\"choices\":null,\"candidates\":null,\"output\":null}\n\n",
        ];
        assert_eq!(said(dialect, &frames), [""; 0], "{dialect}");
        for broken in
            ["data: {\n\n", "data: {\"a\":\"\n\n", "data: {\"a\":1}x\n\n", "data: {]}\n\n"]
        {
            assert_eq!(said(dialect, &[broken]), ["malformed"], "{dialect}: {broken:?}");
        }
    }
}

#[test]
fn json_over_several_lines_of_data_is_one_value() {
    let frame = "data: {\"choices\":[{\"delta\":\ndata: {\"content\":\"a\"}}]}\r\n\r\n";
    assert_eq!(said(Dialect::OpenAiChat, &[frame, "data:[DONE]\r\r"]), ["text 0 a", "end"]);
}

#[test]
fn variants_of_openai_chat_are_read() {
    let chunk = |choice: &str| format!("data: {{\"choices\":[{choice}]}}\n\n");
    let cases = [
        (
            r#"{"index":1,"delta":{"content":"b"}},{"index":0,"delta":{"content":"a"}}"#,
            vec!["text 1 b", "text 0 a"],
        ),
        (r#"{"delta":{"reasoning":"r","content":null}}"#, vec!["reasoning 0 r"]),
        (r#"{"delta":{"reasoning":"r","reasoning_content":"r"}}"#, vec!["reasoning 0 r"]),
        (
            r#"{"delta":{"content":[{"type":"thinking","thinking":[{"type":"text","text":"t"}]},{"type":"text","text":"x"}]}}"#,
            vec!["reasoning 0 t", "text 0 x"],
        ),
        (
            r#"{"delta":{"function_call":{"name":"f","arguments":"{}"}},"finish_reason":"function_call"}"#,
            vec!["call 0 0 - f {}", "finish 0 ToolCalls"],
        ),
        (
            r#"{"delta":{"tool_calls":[{"id":"i","function":{"name":"f","arguments":{"a":1}}}]}}"#,
            vec!["call 0 0 i f {\"a\":1}"],
        ),
        (r#"{"delta":{},"finish_reason":"abort"}"#, vec!["finish 0 abort"]),
    ];
    for (choice, wanted) in cases {
        assert_eq!(said(Dialect::OpenAiChat, &[&chunk(choice)]), wanted, "{choice}");
    }
    // Azure names neither answer nor model in its first chunk.
    let frames = [
        "data: {\"choices\":[],\"id\":\"\",\"model\":\"\",\"prompt_filter_results\":[]}\n\n",
        "data: {\"choices\":[],\"id\":\"c\",\"model\":\"m\"}\n\n",
        "data: {\"choices\":[],\"id\":\"c\",\"model\":\"m\"}\n\n",
    ];
    assert_eq!(said(Dialect::OpenAiChat, &frames), ["start c m"]);
}

#[test]
fn errors_are_read_in_every_form_they_come_in() {
    let cases = [
        (Dialect::OpenAiChat, "data: {\"error\":\"boom\"}\n\n", "error boom - - None"),
        (
            Dialect::OpenAiChat,
            "event: error\ndata: {\"message\":\"m\",\"code\":429}\n\n",
            "error m - 429 Some(429)",
        ),
        (Dialect::OpenAiChat, "event: error\ndata: boom\n\n", "error boom - - None"),
        (
            Dialect::OpenAiChat,
            "data: {\"object\":\"error\",\"message\":\"m\",\"type\":\"T\"}\n\n",
            "error m T - None",
        ),
        (
            Dialect::OpenAiChat,
            "data: {\"id\":\"x\",\"error\":{\"code\":502,\"message\":\"m\"},\"choices\":[{\"delta\":{\"content\":\"\"}}]}\n\n",
            "error m - 502 Some(502)",
        ),
        (
            Dialect::OpenAiResponses,
            "data: {\"type\":\"error\",\"error\":{\"message\":\"m\",\"code\":\"c\"}}\n\n",
            "error m - c None",
        ),
        (
            Dialect::OpenAiResponses,
            "event: response.cancelled\ndata: {\"response\":{}}\n\n",
            "error the response was cancelled - cancelled None",
        ),
        (
            Dialect::Anthropic,
            "event: error\ndata: {\"error\":{\"type\":\"rate_limit_error\",\"message\":\"m\"}}\n\n",
            "error m rate_limit_error - Some(429)",
        ),
        (
            Dialect::Gemini,
            "data: {\"error\":{\"code\":500,\"message\":\"m\",\"status\":\"INTERNAL\"}}\n\n",
            "error m INTERNAL 500 Some(500)",
        ),
        (
            Dialect::Gemini,
            "[{\"error\":{\"code\":400,\n\"message\":\"m\"}}]\n\n",
            "error m - 400 Some(400)",
        ),
        (
            Dialect::DashScope,
            "event:error\nstatus:500\ndata:{\"code\":\"c\",\"message\":\"m\"}\n\n",
            "error m - c Some(500)",
        ),
        (Dialect::DashScope, "event:error\ndata:gone\n\n", "error gone - - None"),
        (
            Dialect::DashScope,
            "data:{\"code\":\"c\",\"message\":\"m\",\"request_id\":\"r\"}\n\n",
            "error m - c None",
        ),
        (
            Dialect::Generic,
            "event: error\ndata: {\"message\":\"m\",\"code\":\"c\"}\n\n",
            "error m - c None",
        ),
    ];
    for (dialect, frame, wanted) in cases {
        assert_eq!(said(dialect, &[frame]), [wanted], "{frame:?}");
    }
}

#[test]
fn calls_are_counted_from_nought_whatever_the_provider_counts() {
    let call = |index: u32, function: &str| {
        format!(
            "data: {{\"choices\":[{{\"delta\":{{\"tool_calls\":[{{\"index\":{index},\"id\":\"i{index}\",\"function\":{function}}}]}}}}]}}\n\n"
        )
    };
    let frames = [
        call(7, "{\"name\":\"a\",\"arguments\":\"\"}"),
        call(9, "{\"name\":\"b\",\"arguments\":\"1\"}"),
        call(7, "{\"name\":\"a\",\"arguments\":\"2\"}"),
    ];
    let frames: Vec<&str> = frames.iter().map(String::as_str).collect();
    let wanted = ["call 0 0 i7 a -", "call 0 1 i9 b 1", "call 0 0 - - 2"];
    assert_eq!(said(Dialect::OpenAiChat, &frames), wanted);
}

#[test]
fn a_block_that_begins_with_its_content_is_read() {
    let frames = [
        "data: {\"type\":\"content_block_start\",\"index\":0,\"content_block\":{\"type\":\"text\",\"text\":\"a\"}}\n\n",
        "event: content_block_delta\ndata: {\"delta\":{\"text\":\"b\"},\"index\":0}\n\n",
        "data: {\"type\":\"content_block_start\",\"index\":1,\"content_block\":{\"type\":\"tool_use\",\"id\":\"i\",\"name\":\"n\",\"input\":{\"a\":1}}}\n\n",
        "data: {\"type\":\"content_block_stop\",\"index\":1}\n\n",
        "data: {\"type\":\"content_block_delta\",\"index\":5,\"delta\":{\"type\":\"input_json_delta\",\"partial_json\":\"{}\"}}\n\n",
    ];
    let wanted = ["text 0 a", "text 0 b", "call 0 0 i n {\"a\":1}"];
    assert_eq!(said(Dialect::Anthropic, &frames), wanted);
}

#[test]
fn more_choices_calls_or_text_than_there_can_be_are_refused() {
    let choice = "data: {\"choices\":[{\"index\":128,\"delta\":{\"content\":\"a\"}}]}\n\n";
    assert_eq!(said(Dialect::OpenAiChat, &[choice]), ["malformed"]);
    let mut reader = Reader::new(Dialect::Gemini, Increments::Unknown);
    let call = b"data: {\"candidates\":[{\"content\":{\"parts\":[{\"functionCall\":{\"name\":\"f\"}}]}}]}\n\n";
    let mut last = String::new();
    for _ in 0..=TOOL_CALLS_MAX {
        reader.read(call, &mut |delta| last = words(delta));
    }
    assert_eq!(last, "malformed");
    let mut reader = Reader::new(Dialect::DashScope, Increments::SoFar);
    let text = "x".repeat(1 << 20);
    for n in 0..5 {
        let frame = format!(
            "data:{{\"output\":{{\"choices\":[{{\"index\":{n},\"message\":{{\"content\":\"{text}\"}}}}]}}}}\n\n"
        );
        reader.read(frame.as_bytes(), &mut |delta| last = words(delta));
    }
    assert_eq!(last, "malformed");
}
