-- What the autoscaler remembers of an app's services from one decision to the next.

ALTER TABLE apps ADD COLUMN scaling TEXT NOT NULL DEFAULT '{}';     -- plan.scale.ScaleMemory by service
