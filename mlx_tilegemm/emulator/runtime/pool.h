// The OS threads that workers run on.
#pragma once

#include <pthread.h>

#include <condition_variable>
#include <memory>
#include <mutex>

#include "launch.h"

namespace msl_rt {

class Pool {
 public:
  // One per process; a forked child gets a new one.
  static Pool& instance();

  // Starts `workers` workers on the launch. False when there is no memory for them.
  bool start(Launch* launch, uint32_t workers);
  bool wait(double seconds);  // true when all workers have ended
  void cancel();              // stops the running threads where they are

  uint32_t started() const { return started_; }
  Worker* worker(uint32_t index) { return workers_[index].get(); }

 private:
  static void forget();
  void note_clocks();
  bool add_worker();
  void serve(Worker* worker, uint64_t seen);

  std::mutex mutex_;
  std::condition_variable work_, done_;
  std::unique_ptr<Worker> workers_[max_workers];
  pthread_t threads_[max_workers] = {};
  uint32_t size_ = 0;
  uint64_t round_ = 0;
  uint32_t started_ = 0;
  uint32_t running_ = 0;
};

}  // namespace msl_rt
