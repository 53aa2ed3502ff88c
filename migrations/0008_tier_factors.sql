-- What other service tiers of a model cost, in millionths of the usual price.
ALTER TABLE model_override ADD COLUMN flex_ppm BIGINT;
ALTER TABLE model_override ADD COLUMN priority_ppm BIGINT;
