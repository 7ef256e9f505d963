"""plan.json: what it holds, how it is made from data and device, whether it fits."""
