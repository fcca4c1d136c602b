#include "pool.h"

#include <pthread.h>

#include <algorithm>
#include <chrono>
#include <thread>

#include "faults.h"

namespace msl_rt {

namespace {

Pool* the_pool = nullptr;
std::mutex pool_mutex;

// No clock of a worker was ever ahead of this when its pool was last looked at.
uint64_t latest_clock = 0;

}  // namespace

// The threads of the parent do not exist in a forked child; what they left in memory does.
void Pool::forget() {
  if (the_pool != nullptr) the_pool->note_clocks();
  the_pool = nullptr;
}

void Pool::note_clocks() {
  for (uint32_t i = 0; i < size_; ++i) latest_clock = std::max(latest_clock, workers_[i]->clock);
}

Pool& Pool::instance() {
  const std::lock_guard<std::mutex> lock(pool_mutex);
  static const int registered = pthread_atfork(nullptr, nullptr, forget);
  (void)registered;
  if (the_pool == nullptr) the_pool = new Pool;
  return *the_pool;
}

bool Pool::add_worker() {
  auto worker = std::make_unique<Worker>(size_);
  if (!worker->allocate()) return false;
  std::thread thread([this, served = worker.get(), seen = round_] { serve(served, seen); });
  workers_[size_] = std::move(worker);
  threads_[size_] = thread.native_handle();
  thread.detach();
  ++size_;
  return true;
}

bool Pool::start(Launch* launch, uint32_t workers) {
  install_fault_handlers();
  const std::lock_guard<std::mutex> lock(mutex_);
  while (size_ < workers) {
    if (!add_worker()) return false;
  }
  // The clocks of all workers start a launch together, ahead of all that they ever were.
  note_clocks();
  launch->start_clock = ++latest_clock;
  launch->tag = 1 + round_ % 255;
  for (uint32_t i = 0; i < workers; ++i) workers_[i]->begin(launch);
  started_ = running_ = workers;
  ++round_;
  work_.notify_all();
  return true;
}

void Pool::serve(Worker* worker, uint64_t seen) {
  this_worker = worker;
  prepare_thread_for_faults();
  for (;;) {
    std::unique_lock<std::mutex> lock(mutex_);
    work_.wait(lock, [&] { return round_ != seen && worker->index < started_; });
    seen = round_;
    lock.unlock();
    worker->run();
    lock.lock();
    if (--running_ == 0) done_.notify_all();
  }
}

bool Pool::wait(double seconds) {
  std::unique_lock<std::mutex> lock(mutex_);
  const auto limit = std::chrono::duration<double>(seconds);
  return done_.wait_for(lock, limit, [this] { return running_ == 0; });
}

void Pool::cancel() {
  const std::lock_guard<std::mutex> lock(mutex_);
  if (running_ == 0) return;
  for (uint32_t i = 0; i < started_; ++i) pthread_kill(threads_[i], cancel_signal);
}

}  // namespace msl_rt
