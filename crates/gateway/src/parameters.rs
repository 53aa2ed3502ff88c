//! The parameters of a request that are known to leave its cost as it is.
//!
//! Upstreams have parameters of their own. Some let them make more output than the limit says, read more input than the
//! body has, or choose a dearer model. Where a hard limit applies, one that is not known here means that the cost has no
//! bound, unless an operator says of the upstream that it does no harm.

/// Parameters that are passed over here: how tokens are chosen, in what form, and what is told beside them. In order.
const HARMLESS: [&str; 80] = [
    "add_generation_prompt",
    "add_special_tokens",
    "allowed_token_ids",
    "bad_words",
    "cache_prompt",
    "chat_template_kwargs",
    "client_metadata",
    "continue_final_message",
    "dimensions",
    "documents",
    "dry_allowed_length",
    "dry_base",
    "dry_multiplier",
    "dry_penalty_last_n",
    "dry_sequence_breakers",
    "dynatemp_exponent",
    "dynatemp_range",
    "echo",
    "enable_thinking",
    "encoding_format",
    "frequency_penalty",
    "function_call",
    "grammar",
    "guided_choice",
    "guided_decoding_backend",
    "guided_grammar",
    "guided_json",
    "guided_regex",
    "guided_whitespace_pattern",
    "ignore_eos",
    "include",
    "include_reasoning",
    "include_stop_str_in_output",
    "input_type",
    "json_schema",
    "keep_alive",
    "length_penalty",
    "logit_bias",
    "logprobs",
    "metadata",
    "min_p",
    "min_tokens",
    "mirostat",
    "mirostat_eta",
    "mirostat_tau",
    "normalize",
    "parallel_tool_calls",
    "parse_tool_calls",
    "presence_penalty",
    "priority",
    "prompt_cache_key",
    "prompt_cache_retention",
    "prompt_logprobs",
    "random_seed",
    "reasoning_effort",
    "reasoning_format",
    "repeat_last_n",
    "repeat_penalty",
    "repetition_penalty",
    "return_token_ids",
    "return_tokens_as_token_ids",
    "safety_identifier",
    "samplers",
    "seed",
    "skip_special_tokens",
    "spaces_between_special_tokens",
    "stop",
    "stop_token_ids",
    "structured_outputs",
    "suffix",
    "temperature",
    "think",
    "top_k",
    "top_logprobs",
    "top_p",
    "truncate_prompt_tokens",
    "truncation",
    "typical_p",
    "user",
    "verbosity",
];

pub(crate) fn is_harmless(name: &str) -> bool {
    HARMLESS.binary_search(&name).is_ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_list_is_in_order() {
        assert!(HARMLESS.windows(2).all(|pair| pair[0] < pair[1]));
    }

    #[test]
    fn what_changes_the_cost_is_not_on_it() {
        for name in [
            "n_predict",
            "num_predict",
            "enable_search",
            "fallbacks",
            "preset",
            "extra_body",
            "options",
            "mm_processor_kwargs",
        ] {
            assert!(!is_harmless(name), "{name}");
        }
    }
}
