"""Published batching policies, one a module, each with its source: baselines to compare with.

All of them are run the same way (`dispatch`): whenever an executor is free, the executor that has been free longest
takes a batch from the requests that have arrived, and never waits for one to fill. With all requests present at time
0 that is the batch-forming rule as published. Executor limits (KV and batch size) hold for every policy, also where
its source has none. Policies know arrivals only when they happen, lengths when they arrive.
"""
