// Exceptions of constructors and loaders. The hot path is noexcept and returns Status (see engine.hpp).
#pragma once

#include <stdexcept>
#include <string>

#include "affekt/export.hpp"

namespace affekt {

/// Base of everything that affekt throws.
class AFFEKT_API Error : public std::runtime_error {
 public:
  using std::runtime_error::runtime_error;
  ~Error() override;
};

/// An argument is out of its range; the message names it, what was expected and what came.
class AFFEKT_API InvalidArgument : public Error {
 public:
  using Error::Error;
  ~InvalidArgument() override;
};

/// A model file cannot be used: truncated, corrupt, foreign, of another schema, or inconsistent.
class AFFEKT_API ModelFileError : public Error {
 public:
  using Error::Error;
  ~ModelFileError() override;
};

/// The configuration exists but cannot run step by step; the message gives the reason.
class AFFEKT_API NotStreamable : public Error {
 public:
  using Error::Error;
  ~NotStreamable() override;
};

/// Version of the library, "major.minor.patch".
AFFEKT_API const char* version() noexcept;

}  // namespace affekt
