-- Audio has prices of its own.
ALTER TABLE model_override ADD COLUMN audio_input_price BIGINT;
ALTER TABLE model_override ADD COLUMN audio_output_price BIGINT;
